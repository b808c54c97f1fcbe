"""Learned values that are looked up or stand by themselves.

Follows caffe/src/caffe/layers/embed_layer.cpp and caffe/include/caffe/layers/
parameter_layer.hpp.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcaffe.layers.blobs import make_weight_and_bias
from jaxcaffe.layers.checks import check_positive
from jaxcaffe.layers.registry import register
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Shape


@register("Embed", bottoms=1, tops=1, no_gradient=(0,))
class Embed(nnx.Module):
    """Replaces each number by the row of a table.

    top[i..., k] = weight[bottom[i...], k] + bias[k].

    Blobs: weight (input_dim, num_output) float32; bias (num_output,) float32 unless
    bias_term is false.

    Args of the call:
      bottom: float32 with whole values in [0, input_dim), any shape.

    Returns:
      (*bottom's shape, num_output) float32.

    Raises:
      LayerError: num_output or input_dim is 0; whatever a filler refuses.

    Source: caffe/src/caffe/layers/embed_layer.cpp. Differs: a number outside
    [0, input_dim) gives a row of NaN (Caffe reads foreign memory).
    """

    blobs = ("weight", "bias")

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.embed_param
        for field in ("num_output", "input_dim"):
            check_positive(field, getattr(param, field))
        self.weight, self.bias = make_weight_and_bias(
            param, rngs, (param.input_dim, param.num_output)
        )

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Looks up the bottom's numbers; see the class."""
        weight = self.weight.get_value()
        # NaN compares false both ways, so that it counts as out of range too.
        known = (bottom > -1) & (bottom < weight.shape[0])
        rows = jnp.where(known, bottom, 0).astype(jnp.int32)
        top = jnp.where(known[..., None], weight[rows], jnp.nan)
        if self.bias is not None:
            top += self.bias.get_value()
        return top


@register("Parameter", bottoms=0, tops=1)
class Parameter(nnx.Module):
    """Gives a learned blob to the layers behind it.

    Blobs: weight float32 of parameter_param's shape, zeros until loaded or trained.

    Returns:
      The blob itself, float32.

    Source: caffe/include/caffe/layers/parameter_layer.hpp. Differs: none.
    """

    blobs = ("weight",)

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        shape = tuple(layer.parameter_param.shape.dim)
        self.weight = nnx.Param(jnp.zeros(shape, jnp.float32))

    def __call__(self) -> jax.Array:
        """Returns the blob; see the class."""
        return self.weight.get_value()
