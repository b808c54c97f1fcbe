"""Layers that bring many elements down to a few: sums, means, the largest.

Follows caffe/src/caffe/layers/reduction_layer.cpp and argmax_layer.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcaffe.errors import LayerError, plural
from jaxcaffe.layers.axes import canonical_axis
from jaxcaffe.layers.registry import register
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Shape


@register("Reduction", bottoms=1, tops=1)
class Reduction(nnx.Module):
    """Adds up the elements along axis and all axes behind it, times coeff.

    By operation the elements themselves (SUM), their absolute values (ASUM), their
    squares (SUMSQ) are added, or the sum is divided by their number (MEAN). With a
    loss_weight it is a loss.

    Args of the call:
      bottom: float32, any shape with at least one axis.

    Returns:
      float32 of the bottom's shape up to axis, without axis; () by default.

    Raises:
      LayerError: axis is out of range.

    Source: caffe/src/caffe/layers/reduction_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.reduction_param
        self.axis = canonical_axis("axis", param.axis, bottom_shapes[0])
        self.operation = param.operation
        self.coeff = param.coeff

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Applies the layer to one bottom; see the class."""
        operations = caffe_pb2.ReductionParameter
        axes = tuple(range(self.axis, bottom.ndim))
        if self.operation == operations.MEAN:
            return self.coeff * jnp.mean(bottom, axes)
        if self.operation == operations.ASUM:
            bottom = jnp.sign(bottom) * bottom  # gradient 0 at 0, where abs has 1
        elif self.operation == operations.SUMSQ:
            bottom = bottom * bottom
        return self.coeff * jnp.sum(bottom, axes)


@register("ArgMax", bottoms=1, tops=1, no_gradient=(0,))
class ArgMax(nnx.Module):
    """Finds the top_k largest elements, the largest first.

    Of equal elements the one with the larger index comes first. With axis it looks
    along that axis and gives their indices or, with out_max_val, their values.
    Without, it looks through all elements of an item and gives their indices, with
    out_max_val followed by their values.

    Args of the call:
      bottom: float32, (N, ...); with axis any shape. It gets no gradient.

    Returns:
      float32; with axis of the bottom's shape but for axis, which has length top_k;
      without, (N, 1, top_k), or (N, 2, top_k) with out_max_val, and behind it axes of
      length 1 up to the bottom's number of axes.

    Raises:
      LayerError: axis is out of range; top_k is 0 or more than there are elements.

    Source: caffe/src/caffe/layers/argmax_layer.cpp. Differs: NaN counts as the
    largest; in Caffe it upsets the order of the others.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.argmax_param
        shape = bottom_shapes[0]
        if not shape:
            raise LayerError("the bottom has shape ()", "a bottom with axes")
        self.axis: int | None = None
        count = math.prod(shape[1:])
        if param.HasField("axis"):
            self.axis = canonical_axis("axis", param.axis, shape)
            count = shape[self.axis]
        if not 1 <= param.top_k <= count:
            raise LayerError(
                f"top_k is {param.top_k} for {plural(count, 'element')}",
                f"1 to {count}",
            )
        self.top_k = param.top_k
        self.out_max_val = param.out_max_val

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Applies the layer to one bottom; see the class."""
        if self.axis is not None:
            values, indices = _largest(jnp.moveaxis(bottom, self.axis, -1), self.top_k)
            top = values if self.out_max_val else indices
            return jnp.moveaxis(top, -1, self.axis)
        items = bottom.reshape(bottom.shape[0], math.prod(bottom.shape[1:]))
        values, indices = _largest(items, self.top_k)
        parts = (indices, values) if self.out_max_val else (indices,)
        top = jnp.stack(parts, axis=1)
        return top.reshape(*top.shape, *(1,) * (bottom.ndim - 3))


def _largest(x: jax.Array, top_k: int) -> tuple[jax.Array, jax.Array]:
    """Returns values and indices of the top_k largest along the last axis, float32."""
    # 0 and -0 are equal, but lax.top_k orders them.
    x = jnp.where(x == 0, 0, x)
    # Of equal elements it gives the first, so the axis is turned round.
    values, indices = jax.lax.top_k(jnp.flip(x, -1), top_k)
    return values, (x.shape[-1] - 1 - indices).astype(jnp.float32)
