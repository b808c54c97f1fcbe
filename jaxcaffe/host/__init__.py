"""The user's own Python code: found, imported, called on the host, blamed by line.

Follows caffe/include/caffe/layers/python_layer.hpp.
"""
