"""Makers of the data that configs/ and prototxt/ name.

Follows the create_*.sh and convert_*_data.cpp examples of Caffe.
"""
