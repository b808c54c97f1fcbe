"""Convolution over any number of spatial axes.

Follows caffe/src/caffe/layers/base_conv_layer.cpp and conv_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import nnx

from jaxcaffe.errors import LayerError
from jaxcaffe.layers.axes import canonical_axis
from jaxcaffe.layers.fillers import fill
from jaxcaffe.layers.registry import register
from jaxcaffe.ops.convolution import convolution
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

    Args of a call:
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
        for index, other in enumerate(bottom_shapes):
            if other != shape:
                raise LayerError(
                    f"bottom {index} has shape {other}, bottom 0 {shape}",
                    "bottoms of one shape",
                )
        self.axis = canonical_axis("axis", param.axis, shape)
        channels, size = shape[self.axis], shape[self.axis + 1 :]
        kernel = _kernel(param, len(size))
        self.stride = _spatial(param, "stride", len(size), 1)
        pad = _spatial(param, "pad", len(size), 0)
        self.dilation = _repeated(param.dilation, "dilation", len(size), 1)
        for field, values in [("stride", self.stride), ("dilation", self.dilation)]:
            if 0 in values:
                raise LayerError(f"{field} is 0", f"{field} of 1 or more")
        self.pad = tuple(
            _pads(*geometry)
            for geometry in zip(
                size, kernel, self.stride, pad, self.dilation, strict=True
            )
        )

        num_output, self.group = param.num_output, param.group
        if num_output == 0:
            raise LayerError("num_output is 0", "num_output of 1 or more")
        for field, value in [("channels", channels), ("num_output", num_output)]:
            if self.group == 0 or value % self.group:
                raise LayerError(
                    f"group {self.group} does not divide {field} {value}",
                    "a common divisor of the bottom's channels and num_output",
                )
        weight_shape = (num_output, channels // self.group, *kernel)
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
            stride=self.stride,
            pad=self.pad,
            dilation=self.dilation,
            group=self.group,
        )
        if self.bias is not None:
            top += self.bias.get_value().reshape(-1, *[1] * len(self.stride))
        return top.reshape(*batch, *top.shape[1:])


def _kernel(param: caffe_pb2.ConvolutionParameter, axes: int) -> tuple[int, ...]:
    kernel = _spatial(param, "kernel", axes, 0)
    if 0 in kernel:
        given = param.kernel_size or param.HasField("kernel_h")
        problem = f"kernel sizes are {kernel}" if given else "no kernel_size"
        raise LayerError(problem, f"sizes above 0: {_accepted('kernel_size', axes)}")
    return kernel


def _spatial(
    param: caffe_pb2.ConvolutionParameter, field: str, axes: int, default: int
) -> tuple[int, ...]:
    """Reads stride, pad or kernel, given once, per axis, or as _h and _w."""
    repeated = "kernel_size" if field == "kernel" else field
    values = getattr(param, repeated)
    names = [f"{field}_h", f"{field}_w"]
    given = [name for name in names if param.HasField(name)]
    if not given:
        return _repeated(values, repeated, axes, default)
    if axes != 2:
        raise LayerError(
            f"{given[0]} is set for {axes} spatial axes", _accepted(repeated, axes)
        )
    if values:
        raise LayerError(
            f"{repeated} and {given[0]} are both set",
            f"{repeated}, or {names[0]} with {names[1]}",
        )
    return tuple(getattr(param, name) for name in names)


def _repeated(
    values: Sequence[int], field: str, axes: int, default: int
) -> tuple[int, ...]:
    if len(values) not in (0, 1, axes):
        raise LayerError(
            f"{field} is given {len(values)} times for {axes} spatial axes",
            _accepted(field, axes),
        )
    if len(values) == axes:
        return tuple(values)
    return (values[0] if values else default,) * axes


def _accepted(field: str, axes: int) -> str:
    per_axis = f", or {axes} times" if axes > 1 else ""
    pair = ""
    if axes == 2 and field != "dilation":
        stem = field.removesuffix("_size")
        pair = f", or {stem}_h with {stem}_w"
    return f"{field} once{per_axis}{pair}"


def _pads(
    size: int, kernel: int, stride: int, pad: int, dilation: int
) -> tuple[int, int]:
    """Returns the zeros before and after one axis.

    Caffe's integer division rounds towards zero, so with a stride a filter may stick
    out of the padded bottom at the far side, where it reads zeros.
    """
    extent = dilation * (kernel - 1) + 1
    room = size + 2 * pad - extent
    if room <= -stride:
        raise LayerError(
            f"filters cover {extent} pixels, the padded bottom has {size + 2 * pad}",
            "a smaller kernel_size or dilation, or a larger pad or bottom",
        )
    return pad, pad + max(0, -room)
