"""Inner products, and factors and summands that are broadcast.

Follows caffe/src/caffe/layers/inner_product_layer.cpp, scale_layer.cpp and
bias_layer.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
from flax import nnx
from jax import lax

from jaxcaffe.errors import LayerError
from jaxcaffe.layers.axes import canonical_axis
from jaxcaffe.layers.blobs import make_blob, make_weight_and_bias
from jaxcaffe.layers.checks import check_positive
from jaxcaffe.layers.registry import register
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Shape


@register("InnerProduct", bottoms=1, tops=1)
class InnerProduct(nnx.Module):
    """Multiplies the flattened axes from `axis` on by a matrix.

    top[m, k] = bias[k] + sum over i of weight[k, i] * bottom[m, i].

    Blobs: weight (num_output, count) float32, with `transpose` (count, num_output);
    bias (num_output,) float32 unless bias_term is false.

    Args of the call:
      bottom: (*outer, *flattened) float32, `axis` axes outside, count =
        prod(flattened).

    Returns:
      (*outer, num_output) float32.

    Raises:
      LayerError: no such axis; num_output 0; whatever a filler refuses.

    Source: caffe/src/caffe/layers/inner_product_layer.cpp, LayerSetUp and Forward_cpu.
    Differs: none.
    """

    blobs = ("weight", "bias")

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.inner_product_param
        shape = bottom_shapes[0]
        self.axis = canonical_axis("axis", param.axis, shape)
        self.transpose = param.transpose
        check_positive("num_output", param.num_output)
        weight_shape = (param.num_output, math.prod(shape[self.axis :]))
        if self.transpose:
            weight_shape = weight_shape[::-1]
        self.weight, self.bias = make_weight_and_bias(param, rngs, weight_shape)

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Multiplies the bottom by the weights; see the class."""
        outer, inner = bottom.shape[: self.axis], bottom.shape[self.axis :]
        rows = bottom.reshape(math.prod(outer), math.prod(inner))
        contracted = 0 if self.transpose else 1
        top = lax.dot_general(
            rows, self.weight.get_value(), (((1,), (contracted,)), ((), ()))
        )
        if self.bias is not None:
            top += self.bias.get_value()
        return top.reshape(*outer, top.shape[1])


@register("Scale", bottoms=(1, 2), tops=1)
class Scale(nnx.Module):
    """Multiplies by a learned or given blob and may add a learned one.

    top = bottom * scale + bias, scale and bias aligned with the bottom's axes from
    `axis` on and repeated along the others.

    Blobs: scale float32, with one bottom only; bias float32 if bias_term. Their shape
    is the bottom's from `axis` over num_axes axes (-1: all that follow, 0: a scalar)
    or, with two bottoms, the second's; num_axes then says nothing.

    Args of the call:
      bottom: any shape, float32.
      factor: the second bottom: float32, shape as above.

    Returns:
      float32, of the bottom's shape.

    Raises:
      LayerError: no such axis; num_axes below -1 or past the last axis; the second
        bottom does not fit the first; whatever a filler refuses.

    Source: caffe/src/caffe/layers/scale_layer.cpp, LayerSetUp, Reshape, Forward_cpu.
    Differs: none.
    """

    blobs = ("scale", "bias")

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.scale_param
        shape, self.axis = _broadcast_shape(param.axis, param.num_axes, bottom_shapes)
        filler = param.filler
        if not param.HasField("filler"):  # the default leaves the bottom as it is
            filler = caffe_pb2.FillerParameter(type="constant", value=1)
        self.scale = make_blob(filler, rngs, shape) if len(bottom_shapes) == 1 else None
        self.bias = (
            make_blob(param.bias_filler, rngs, shape) if param.bias_term else None
        )

    def __call__(self, bottom: jax.Array, factor: jax.Array | None = None) -> jax.Array:
        """Scales the bottom; see the class."""
        if self.scale is not None:
            factor = self.scale.get_value()
        assert factor is not None
        top = bottom * _align(factor, bottom.ndim, self.axis)
        if self.bias is not None:
            top += _align(self.bias.get_value(), bottom.ndim, self.axis)
        return top


@register("Bias", bottoms=(1, 2), tops=1)
class Bias(nnx.Module):
    """Adds a learned or given blob.

    top = bottom + bias, bias aligned with the bottom's axes from `axis` on and
    repeated along the others.

    Blobs: bias float32, with one bottom only, of the bottom's shape from `axis` over
    num_axes axes (-1: all that follow, 0: a scalar).

    Args of the call:
      bottom: any shape, float32.
      summand: the second bottom: float32, of a shape that fits the first's from
        `axis` on; num_axes then says nothing.

    Returns:
      float32, of the bottom's shape.

    Raises:
      LayerError: no such axis; num_axes below -1 or past the last axis; the second
        bottom does not fit the first; whatever a filler refuses.

    Source: caffe/src/caffe/layers/bias_layer.cpp, LayerSetUp, Reshape, Forward_cpu.
    Differs: none.
    """

    blobs = ("bias",)

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.bias_param
        shape, self.axis = _broadcast_shape(param.axis, param.num_axes, bottom_shapes)
        self.bias = (
            make_blob(param.filler, rngs, shape) if len(bottom_shapes) == 1 else None
        )

    def __call__(
        self, bottom: jax.Array, summand: jax.Array | None = None
    ) -> jax.Array:
        """Adds to the bottom; see the class."""
        if self.bias is not None:
            summand = self.bias.get_value()
        assert summand is not None
        return bottom + _align(summand, bottom.ndim, self.axis)


def _broadcast_shape(
    axis: int, num_axes: int, bottom_shapes: Sequence[Shape]
) -> tuple[Shape, int]:
    """Returns the shape of the factor or summand and the axis where it starts."""
    shape = bottom_shapes[0]
    if len(bottom_shapes) == 1:
        start = canonical_axis("axis", axis, shape)
        if num_axes < -1:
            raise LayerError(
                f"num_axes is {num_axes}", "0 or more, or -1 for all that follow axis"
            )
        end = len(shape) if num_axes == -1 else start + num_axes
        if end > len(shape):
            raise LayerError(
                f"axis {start} and num_axes {num_axes} reach past the bottom's shape"
                f" {shape}",
                f"num_axes up to {len(shape) - start}, or -1",
            )
        return shape[start:end], start
    second = bottom_shapes[1]
    # A scalar fits everywhere, whatever axis says.
    start = canonical_axis("axis", axis, shape) if second else 0
    if shape[start : start + len(second)] != second:
        raise LayerError(
            f"bottom 1 of shape {second} does not fit bottom 0 of shape {shape} from"
            f" axis {start}",
            f"a shape that begins {shape[start:]}, cut anywhere",
        )
    return second, start


def _align(x: jax.Array, num_axes: int, axis: int) -> jax.Array:
    """Gives x axes of length 1 so that its first stands at `axis` of num_axes."""
    return x.reshape(*[1] * axis, *x.shape, *[1] * (num_axes - axis - x.ndim))
