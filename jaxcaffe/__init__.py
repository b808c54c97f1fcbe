"""Caffe, reimplemented functionally on JAX."""
