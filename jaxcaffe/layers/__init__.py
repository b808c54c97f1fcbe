"""Layers: small flax.nnx modules, one per Caffe type, filed by importing them.

Follows caffe/src/caffe/layer_factory.cpp.
"""

from jaxcaffe.layers import (
    accuracy,
    activation,
    batch,
    conv,
    dropout,
    elementwise,
    feed,
    linear,
    loss,
    norm,
    pooling,
    recurrent,
    reduce,
    reshape,
    shape,
    softmax,
    table,
)
from jaxcaffe.layers.registry import LayerType, layer_types, lookup

__all__ = [
    "LayerType",
    "accuracy",
    "activation",
    "batch",
    "conv",
    "dropout",
    "elementwise",
    "feed",
    "layer_types",
    "linear",
    "lookup",
    "loss",
    "norm",
    "pooling",
    "recurrent",
    "reduce",
    "reshape",
    "shape",
    "softmax",
    "table",
]
