"""Dropout: noise while training.

Follows caffe/src/caffe/layers/dropout_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcaffe.errors import LayerError
from jaxcaffe.layers.registry import register
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Shape


@register("Dropout", bottoms=1, tops=1, random=True)
class Dropout(nnx.Module):
    """Sets elements to 0 at random while training, and scales up the others.

    TRAIN: top = bottom * mask / (1 - dropout_ratio), each element of mask 1 with
    probability 1 - dropout_ratio and 0 otherwise. TEST: top = bottom.

    Args of the call:
      bottom: float32, any shape.
      key: JAX random key of this forward pass; not used in TEST.

    Returns:
      float32, the same shape.

    Raises:
      LayerError: dropout_ratio is not in [0, 1).

    Source: caffe/src/caffe/layers/dropout_layer.cpp. Differs: the mask comes from
    JAX's generator; a ratio outside [0, 1) is refused in every build.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        self.dropout_ratio = layer.dropout_param.dropout_ratio
        if not 0 <= self.dropout_ratio < 1:
            raise LayerError(
                f"dropout_ratio is {self.dropout_ratio:g}", "0 up to, not including, 1"
            )
        self.drops = phase == caffe_pb2.TRAIN and self.dropout_ratio > 0

    def __call__(self, bottom: jax.Array, *, key: jax.Array) -> jax.Array:
        """Applies the layer to one bottom; see the class."""
        if not self.drops:
            return bottom
        keep = 1 - self.dropout_ratio
        mask = jax.random.bernoulli(key, keep, bottom.shape)
        return jnp.where(mask, bottom * (1 / keep), jnp.zeros_like(bottom))
