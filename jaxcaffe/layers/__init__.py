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
    hdf5_output,
    linear,
    loss,
    norm,
    pooling,
    python,
    recurrent,
    reduce,
    reshape,
    settings,
    shape,
    softmax,
    table,
)
from jaxcaffe.layers.registry import LayerType, layer_types, lookup, register

__all__ = [
    "LayerType",
    "accuracy",
    "activation",
    "batch",
    "conv",
    "dropout",
    "elementwise",
    "feed",
    "hdf5_output",
    "layer_types",
    "linear",
    "lookup",
    "loss",
    "norm",
    "pooling",
    "python",
    "recurrent",
    "reduce",
    "register",
    "reshape",
    "settings",
    "shape",
    "softmax",
    "table",
]
