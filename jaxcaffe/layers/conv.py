"""Convolution over any number of spatial axes, forwards, backwards and laid out.

Follows caffe/src/caffe/layers/base_conv_layer.cpp, conv_layer.cpp, deconv_layer.cpp
and im2col_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
from flax import nnx

from jaxcaffe.errors import LayerError
from jaxcaffe.layers.axes import canonical_axis
from jaxcaffe.layers.blobs import make_weight_and_bias
from jaxcaffe.layers.checks import check_alike, check_positive
from jaxcaffe.layers.geometry import Geometry, read_geometry
from jaxcaffe.layers.registry import register
from jaxcaffe.ops.convolution import convolution, deconvolution, im2col
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Shape


@register("Convolution", bottoms=(1, None), tops=(1, None), equal_counts=True)
class Convolution(nnx.Module):
    """Slides num_output filters over the axes behind the channel axis.

    top[n, k, i...] = bias[k] + sum over c, t of
    weight[k, c, t...] * bottom[n, c, i * stride - pad + t * dilation...],
    c running over the channels of k's group. Several bottoms are filtered alike.

    Blobs: weight (num_output, C / group, *kernel) float32; bias (num_output,) float32
    unless bias_term is false.

    Args of the call:
      bottoms: each (*batch, C, *size) float32, C at `axis`, all of one shape.

    Returns:
      one array or one per bottom, (*batch, num_output, *out) float32, out =
      (size + 2 * pad - extent) / stride + 1 with extent = dilation * (kernel - 1) + 1;
      the division drops the remainder.

    Raises:
      LayerError: no such axis; sizes given twice, zero or too few; num_output 0; group
        that does not divide; bottoms of unequal shapes; a filter larger than the padded
        bottom; whatever a filler refuses.

    Source: caffe/src/caffe/layers/base_conv_layer.cpp, LayerSetUp, and
    conv_layer.cpp, compute_output_shape and Forward_cpu.
    Differs: engine and force_nd_im2col choose no other code; dilation 0, stride 0 and
    an empty top are refused.
    """

    blobs = ("weight", "bias")

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.convolution_param
        check_alike(bottom_shapes)
        self.axis, channels, size = _split_axes(param, bottom_shapes[0])
        self.geometry = read_geometry(param, len(size))
        self.pad = _pads(self.geometry, size)
        self.group = param.group
        num_output = _check_outputs(param, channels)
        self.weight, self.bias = make_weight_and_bias(
            param, rngs, (num_output, channels // self.group, *self.geometry.kernel)
        )

    def __call__(self, *bottoms: jax.Array) -> jax.Array | tuple[jax.Array, ...]:
        """Filters each bottom; see the class."""
        tops = tuple(_over_batch(self._filter, b, self.axis) for b in bottoms)
        return tops if len(tops) > 1 else tops[0]

    def _filter(self, images: jax.Array) -> jax.Array:
        top = convolution(
            images,
            self.weight.get_value(),
            stride=self.geometry.stride,
            pad=self.pad,
            dilation=self.geometry.dilation,
            group=self.group,
        )
        return _add_bias(top, self.bias)


@register("Deconvolution", bottoms=(1, None), tops=(1, None), equal_counts=True)
class Deconvolution(nnx.Module):
    """Adds num_output filters up, one at every pixel: a convolution backwards.

    top[n, k, i * stride - pad + t * dilation...] is bias[k] plus the sum of
    weight[c, k, t...] * bottom[n, c, i...] over all that fall on it, c running over the
    channels of k's group. Several bottoms are treated alike. With group C, num_output
    C and filler bilinear it enlarges images by interpolation.

    Blobs: weight (C, num_output / group, *kernel) float32; bias (num_output,) float32
    unless bias_term is false.

    Args of the call:
      bottoms: each (*batch, C, *size) float32, C at `axis`, all of one shape.

    Returns:
      one array or one per bottom, (*batch, num_output, *out) float32, out =
      stride * (size - 1) + extent - 2 * pad with extent = dilation * (kernel - 1) + 1.

    Raises:
      LayerError: no such axis; sizes given twice, zero or too few; num_output 0; group
        that does not divide; bottoms of unequal shapes; pads that leave nothing;
        whatever a filler refuses.

    Source: caffe/src/caffe/layers/deconv_layer.cpp and base_conv_layer.cpp. Differs:
    engine and force_nd_im2col choose no other code; dilation 0 and stride 0 are
    refused.
    """

    blobs = ("weight", "bias")

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.convolution_param
        check_alike(bottom_shapes)
        self.axis, channels, size = _split_axes(param, bottom_shapes[0])
        self.geometry = read_geometry(param, len(size))
        self.out = tuple(
            stride * (length - 1) + extent - 2 * pad
            for length, extent, stride, pad in zip(
                size,
                self.geometry.extent,
                self.geometry.stride,
                self.geometry.pad,
                strict=True,
            )
        )
        if min(self.out, default=1) < 1:
            raise LayerError(
                f"pad {self.geometry.pad} leaves a top of {self.out} pixels",
                "a smaller pad, or a larger kernel_size or bottom",
            )
        self.group = param.group
        num_output = _check_outputs(param, channels)
        self.weight, self.bias = make_weight_and_bias(
            param, rngs, (channels, num_output // self.group, *self.geometry.kernel)
        )

    def __call__(self, *bottoms: jax.Array) -> jax.Array | tuple[jax.Array, ...]:
        """Treats each bottom; see the class."""
        tops = tuple(_over_batch(self._spread, b, self.axis) for b in bottoms)
        return tops if len(tops) > 1 else tops[0]

    def _spread(self, images: jax.Array) -> jax.Array:
        top = deconvolution(
            images,
            self.weight.get_value(),
            self.out,
            stride=self.geometry.stride,
            pad=self.geometry.pad,
            dilation=self.geometry.dilation,
            group=self.group,
        )
        return _add_bias(top, self.bias)


@register("Im2col", bottoms=1, tops=1)
class Im2col(nnx.Module):
    """Lays the window under a filter into the channels: what a filter is multiplied by.

    top[n, (c, t...), i...] = bottom[n, c, i * stride - pad + t * dilation...], zero
    outside the bottom, t running over the kernel in row order.

    Args of the call:
      bottom: (*batch, C, *size) float32, C at `axis`, one spatial axis or more.

    Returns:
      (*batch, C * kernel's elements, *out) float32, out as of a Convolution.

    Raises:
      LayerError: no such axis, or none behind it; sizes given twice, zero or too few; a
        window larger than the padded bottom.

    Source: caffe/src/caffe/layers/im2col_layer.cpp. Differs: force_nd_im2col chooses no
    other code.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.convolution_param
        self.axis, _, size = _split_axes(param, bottom_shapes[0])
        if not size:
            raise LayerError(
                f"nothing lies behind axis {param.axis} of a bottom of shape "
                f"{bottom_shapes[0]}",
                "a bottom with spatial axes behind its channels",
            )
        self.geometry = read_geometry(param, len(size))
        self.pad = _pads(self.geometry, size)

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Lays out the windows; see the class."""
        return _over_batch(self._lay_out, bottom, self.axis)

    def _lay_out(self, images: jax.Array) -> jax.Array:
        return im2col(
            images,
            self.geometry.kernel,
            stride=self.geometry.stride,
            pad=self.pad,
            dilation=self.geometry.dilation,
        )


def _split_axes(
    param: caffe_pb2.ConvolutionParameter, shape: Shape
) -> tuple[int, int, Shape]:
    """Returns the channel axis, its length and the lengths behind it."""
    axis = canonical_axis("axis", param.axis, shape)
    return axis, shape[axis], shape[axis + 1 :]


def _check_outputs(param: caffe_pb2.ConvolutionParameter, channels: int) -> int:
    """Returns num_output, which `group` divides as it does the channels."""
    check_positive("num_output", param.num_output)
    for field, value in [("channels", channels), ("num_output", param.num_output)]:
        if param.group == 0 or value % param.group:
            raise LayerError(
                f"group {param.group} does not divide {field} {value}",
                "a common divisor of the bottom's channels and num_output",
            )
    return param.num_output


def _pads(geometry: Geometry, size: Shape) -> tuple[tuple[int, int], ...]:
    """Returns the zeros before and after each spatial axis.

    Caffe's integer division rounds towards zero, so with a stride a filter may stick
    out of the padded bottom at the far side, where it reads zeros.
    """
    pads = []
    for length, extent, stride, pad in zip(
        size, geometry.extent, geometry.stride, geometry.pad, strict=True
    ):
        room = length + 2 * pad - extent
        if room <= -stride:
            raise LayerError(
                f"filters cover {extent} pixels, the padded bottom has "
                f"{length + 2 * pad}",
                "a smaller kernel_size or dilation, or a larger pad or bottom",
            )
        pads.append((pad, pad + max(0, -room)))
    return tuple(pads)


def _over_batch(
    function: Callable[[jax.Array], jax.Array], bottom: jax.Array, axis: int
) -> jax.Array:
    """Calls a function of (N, C, *size) with all axes before `axis` as one."""
    batch = bottom.shape[:axis]
    top = function(bottom.reshape(-1, *bottom.shape[axis:]))
    return top.reshape(*batch, *top.shape[1:])


def _add_bias(top: jax.Array, bias: nnx.Param | None) -> jax.Array:
    """Adds bias (K,), if there is one, to (N, K, *size)."""
    if bias is None:
        return top
    return top + bias.get_value().reshape(-1, *[1] * (top.ndim - 2))
