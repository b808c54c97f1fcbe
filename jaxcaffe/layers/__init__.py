"""Layers: small flax.nnx modules, one per Caffe type, filed by importing them.

Follows caffe/src/caffe/layer_factory.cpp.
"""

from jaxcaffe.layers import (
    accuracy,
    activation,
    conv,
    elementwise,
    feed,
    linear,
    loss,
    norm,
    pooling,
    shape,
)
from jaxcaffe.layers.registry import LayerType, layer_types, lookup

__all__ = [
    "LayerType",
    "accuracy",
    "activation",
    "conv",
    "elementwise",
    "feed",
    "layer_types",
    "linear",
    "lookup",
    "loss",
    "norm",
    "pooling",
    "shape",
]
