"""Kernel, stride, pad and dilation of windows over spatial axes.

Follows caffe/src/caffe/layers/base_conv_layer.cpp and im2col_layer.cpp, LayerSetUp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jaxcaffe.errors import LayerError
from jaxcaffe.proto import caffe_pb2


class Geometry(NamedTuple):
    """How a filter lies on its bottom; one number per spatial axis, in pixels."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]  # on both sides
    dilation: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """Pixels from the first to the last element of a filter, both included."""
        pairs = zip(self.kernel, self.dilation, strict=True)
        return tuple(d * (k - 1) + 1 for k, d in pairs)


def read_geometry(param: caffe_pb2.ConvolutionParameter, axes: int) -> Geometry:
    """Reads the sizes, given once, per axis, or as _h and _w.

    Args:
      param: of a layer over `axes` spatial axes.
      axes: 0 or more.

    Raises:
      LayerError: sizes given twice, too few or too many of them, or zero.
    """
    geometry = Geometry(
        kernel=_kernel(param, axes),
        stride=_spatial(param, "stride", axes, 1),
        pad=_spatial(param, "pad", axes, 0),
        dilation=_repeated(param.dilation, "dilation", axes, 1),
    )
    for field in ("stride", "dilation"):
        if 0 in getattr(geometry, field):
            raise LayerError(f"{field} is 0", f"{field} of 1 or more")
    return geometry


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
