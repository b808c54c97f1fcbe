"""Convolution over any number of spatial axes, forwards, backwards and laid out.

Follows caffe/src/caffe/layers/base_conv_layer.cpp, conv_layer.cpp, deconv_layer.cpp
and im2col_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import nnx

from jaxcaffe.errors import LayerError
from jaxcaffe.layers.axes import canonical_axis
from jaxcaffe.layers.checks import check_alike, check_positive
from jaxcaffe.layers.fillers import fill
from jaxcaffe.layers.geometry import read_geometry
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
      LayerError: sizes given twice, zero or too few; group that does not divide;
        bottoms of unequal shapes; a filter larger than the padded bottom.

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
        shape = bottom_shapes[0]
        check_alike(bottom_shapes)
        self.axis = canonical_axis("axis", param.axis, shape)
        channels, size = shape[self.axis], shape[self.axis + 1 :]
        self.geometry = read_geometry(param, len(size))
        self.pad = tuple(
            _pads(*sizes)
            for sizes in zip(
                size,
                self.geometry.extent,
                self.geometry.stride,
                self.geometry.pad,
                strict=True,
            )
        )
        self.group = param.group
        num_output = _check_outputs(param, channels)
        weight_shape = (num_output, channels // self.group, *self.geometry.kernel)
        self.weight = nnx.Param(fill(param.weight_filler, rngs.params(), weight_shape))
        self.bias = (
            nnx.Param(fill(param.bias_filler, rngs.params(), (num_output,)))
            if param.bias_term
            else None
        )

    def __call__(self, *bottoms: jax.Array) -> jax.Array | tuple[jax.Array, ...]:
        """Filters each bottom; see the class."""
        tops = tuple(map(self._filter, bottoms))
        return tops if len(tops) > 1 else tops[0]

    def _filter(self, bottom: jax.Array) -> jax.Array:
        batch = bottom.shape[: self.axis]
        images = bottom.reshape(-1, *bottom.shape[self.axis :])
        top = convolution(
            images,
            self.weight.get_value(),
            stride=self.geometry.stride,
            pad=self.pad,
            dilation=self.geometry.dilation,
            group=self.group,
        )
        if self.bias is not None:
            top += self.bias.get_value().reshape(-1, *[1] * len(self.pad))
        return top.reshape(*batch, *top.shape[1:])


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
      LayerError: sizes given twice, zero or too few; group that does not divide;
        bottoms of unequal shapes; pads that leave nothing.

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
        shape = bottom_shapes[0]
        check_alike(bottom_shapes)
        self.axis = canonical_axis("axis", param.axis, shape)
        channels, size = shape[self.axis], shape[self.axis + 1 :]
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
        weight_shape = (channels, num_output // self.group, *self.geometry.kernel)
        self.weight = nnx.Param(fill(param.weight_filler, rngs.params(), weight_shape))
        self.bias = (
            nnx.Param(fill(param.bias_filler, rngs.params(), (num_output,)))
            if param.bias_term
            else None
        )

    def __call__(self, *bottoms: jax.Array) -> jax.Array | tuple[jax.Array, ...]:
        """Treats each bottom; see the class."""
        tops = tuple(map(self._spread, bottoms))
        return tops if len(tops) > 1 else tops[0]

    def _spread(self, bottom: jax.Array) -> jax.Array:
        batch = bottom.shape[: self.axis]
        images = bottom.reshape(-1, *bottom.shape[self.axis :])
        top = deconvolution(
            images,
            self.weight.get_value(),
            self.out,
            stride=self.geometry.stride,
            pad=self.geometry.pad,
            dilation=self.geometry.dilation,
            group=self.group,
        )
        if self.bias is not None:
            top += self.bias.get_value().reshape(-1, *[1] * len(self.out))
        return top.reshape(*batch, *top.shape[1:])


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
      LayerError: no spatial axis; sizes given twice, zero or too few; a window larger
        than the padded bottom.

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
        shape = bottom_shapes[0]
        self.axis = canonical_axis("axis", param.axis, shape)
        size = shape[self.axis + 1 :]
        if not size:
            raise LayerError(
                f"nothing lies behind axis {param.axis} of a bottom of shape {shape}",
                "a bottom with spatial axes behind its channels",
            )
        self.geometry = read_geometry(param, len(size))
        self.pad = tuple(
            _pads(*sizes)
            for sizes in zip(
                size,
                self.geometry.extent,
                self.geometry.stride,
                self.geometry.pad,
                strict=True,
            )
        )

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Lays out the windows; see the class."""
        batch = bottom.shape[: self.axis]
        top = im2col(
            bottom.reshape(-1, *bottom.shape[self.axis :]),
            self.geometry.kernel,
            stride=self.geometry.stride,
            pad=self.pad,
            dilation=self.geometry.dilation,
        )
        return top.reshape(*batch, *top.shape[1:])


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


def _pads(size: int, extent: int, stride: int, pad: int) -> tuple[int, int]:
    """Returns the zeros before and after one axis.

    Caffe's integer division rounds towards zero, so with a stride a filter may stick
    out of the padded bottom at the far side, where it reads zeros.
    """
    room = size + 2 * pad - extent
    if room <= -stride:
        raise LayerError(
            f"filters cover {extent} pixels, the padded bottom has {size + 2 * pad}",
            "a smaller kernel_size or dilation, or a larger pad or bottom",
        )
    return pad, pad + max(0, -room)
