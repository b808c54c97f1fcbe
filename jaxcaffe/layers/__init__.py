"""Layers: small flax.nnx modules, one per Caffe type."""
