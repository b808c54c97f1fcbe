"""Functions of one element each, and dropout.

Follows caffe/src/caffe/layers/neuron_layer.cpp and the layers derived from it.
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


@register("ReLU", bottoms=1, tops=1)
class ReLU(nnx.Module):
    """Cuts off negative values, or scales them by negative_slope.

    top = bottom if bottom > 0, else negative_slope * bottom. At exactly 0 the
    gradient is that of the negative side.

    Args of the call:
      bottom: float32, any shape.

    Returns:
      float32, the same shape.

    Source: caffe/src/caffe/layers/relu_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        self.negative_slope = layer.relu_param.negative_slope

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Applies the layer to one bottom; see the class."""
        if self.negative_slope == 0:
            return jax.nn.relu(bottom)
        return jnp.where(bottom > 0, bottom, self.negative_slope * bottom)


@register("Sigmoid", bottoms=1, tops=1)
class Sigmoid(nnx.Module):
    """Squashes to between 0 and 1: top = 1 / (1 + exp(-bottom)).

    Args of the call:
      bottom: float32, any shape.

    Returns:
      float32, the same shape.

    Source: caffe/src/caffe/layers/sigmoid_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        pass

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Applies the layer to one bottom; see the class."""
        return jax.nn.sigmoid(bottom)


@register("TanH", bottoms=1, tops=1)
class TanH(nnx.Module):
    """Squashes to between -1 and 1: top = tanh(bottom).

    Args of the call:
      bottom: float32, any shape.

    Returns:
      float32, the same shape.

    Source: caffe/src/caffe/layers/tanh_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        pass

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Applies the layer to one bottom; see the class."""
        return jnp.tanh(bottom)


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
