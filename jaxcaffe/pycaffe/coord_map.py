"""Where a pixel of one top lies in another, and the Crop layer that aligns the two.

Follows caffe/python/caffe/coord_map.py.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import numpy as np

from jaxcaffe.errors import CaffeError, describe
from jaxcaffe.pycaffe.net_spec import Function, Top, layers

PASS_THROUGH_LAYERS = [
    *("AbsVal", "BatchNorm", "Bias", "BNLL", "Clip", "Dropout", "Eltwise", "ELU"),
    *("Log", "LRN", "Exp", "MVN", "Power", "ReLU", "PReLU", "Scale", "Sigmoid"),
    *("Split", "Swish", "TanH", "Threshold"),
]
"""Types whose tops have the pixels of their bottoms."""

_SPATIAL_AXIS = 2
"""Of blobs (N, C, H, W), where no layer says otherwise."""


class UndefinedMapException(CaffeError):  # noqa: N818 - Caffe's name
    """A layer moves pixels in no regular way."""


class AxisMismatchException(CaffeError):  # noqa: N818 - Caffe's name
    """Two layers take other axes for the pixels' rows."""


class UnconnectedError(CaffeError, RuntimeError):
    """Two tops have no common bottom that both are mapped from."""


class CropError(CaffeError, AssertionError):
    """No Crop layer can align two tops, or parameters are given in a way too old."""


class Map(NamedTuple):
    """A coordinate i of the first blob is `scale * i + shift` of the second.

    `axis` is the axis before the first coordinate, or None where it does not matter;
    `scale` and `shift` are numbers, or arrays with one number per coordinate.
    """

    axis: int | None
    scale: Any
    shift: Any


IDENTITY = Map(None, 1, 0)


def conv_params(fn: Function) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Returns what a window's layer does to coordinates.

    Args:
      fn: a Convolution, Deconvolution, Pooling or Im2col.

    Returns:
      axis of the channels, and (1,) or (coordinates,) integers: stride, extent of the
      kernel with its dilation, pad.

    Raises:
      CropError: kernel, stride or pad are given as _h and _w by their older names.
      UndefinedMapException: it has no kernel_size (global_pooling).
    """
    given = _own(fn, "pooling_param" if fn.type_name == "Pooling" else None)
    old = [
        f"{field}_{side}"
        for field in ("kernel", "stride", "pad")
        for side in ("h", "w")
        if f"{field}_{side}" in given
    ]
    if old:
        raise CropError(
            describe(
                fn.type_name,
                f"cropping does not support legacy _h/_w params: {', '.join(old)}",
                "kernel_size=[h, w], stride=[h, w], pad=[h, w]",
            )
        )
    if "kernel_size" not in given:
        raise UndefinedMapException(
            describe(fn.type_name, "has no kernel_size, so it maps no coordinates")
        )
    kernel_size = np.array(given["kernel_size"], ndmin=1)
    dilation = np.array(given.get("dilation", 1), ndmin=1)
    return (
        given.get("axis", 1),
        np.array(given.get("stride", 1), ndmin=1),
        (kernel_size - 1) * dilation + 1,
        np.array(given.get("pad", 0), ndmin=1),
    )


def crop_params(fn: Function) -> tuple[int, np.ndarray]:
    """Returns the first axis that a Crop layer cuts, and its offsets."""
    given = fn.params.get("crop_param", fn.params)
    return given.get("axis", _SPATIAL_AXIS), np.array(given.get("offset", 0), ndmin=1)


def coord_map(fn: Function) -> Map:
    """Returns the map from coordinates of a layer's bottoms to those of its tops.

    Raises:
      UndefinedMapException: its type has none.
      CropError: as `conv_params`.

    Source: caffe/python/caffe/coord_map.py. Differs: Clip and Swish are known.
    """
    if fn.type_name in ("Convolution", "Pooling", "Im2col"):
        axis, stride, extent, pad = conv_params(fn)
        return Map(axis, 1 / stride, (pad - (extent - 1) / 2) / stride)
    if fn.type_name == "Deconvolution":
        axis, stride, extent, pad = conv_params(fn)
        return Map(axis, stride, (extent - 1) / 2 - pad)
    if fn.type_name in PASS_THROUGH_LAYERS:
        return IDENTITY
    if fn.type_name == "Crop":
        axis, offset = crop_params(fn)
        return Map(axis - 1, 1, -offset)
    raise UndefinedMapException(
        describe(fn.type_name, "maps no coordinates", ", ".join(PASS_THROUGH_LAYERS))
    )


def compose(base_map: Map, next_map: Map) -> Map:
    """Returns the map that applies `next_map` and then `base_map`.

    Raises:
      AxisMismatchException: the two are for other axes.
    """
    axis, scale, shift = base_map
    next_axis, next_scale, next_shift = next_map
    if axis is None:
        axis = next_axis
    elif next_axis is not None and next_axis != axis:
        raise AxisMismatchException(
            describe("", f"coordinates begin after axis {axis} and axis {next_axis}")
        )
    return Map(axis, scale * next_scale, scale * next_shift + shift)


def inverse(coord_map: Map) -> Map:
    """Returns the map of the other direction."""
    axis, scale, shift = coord_map
    return Map(axis, 1 / scale, -shift / scale)


def coord_map_from_to(top_from: Top, top_to: Top) -> Map:
    """Returns the map between two tops' coordinates, through a bottom that both have.

    Returns:
      Such that pixel i of `top_from` lies on pixel `scale * i + shift` of `top_to`.

    Raises:
      UnconnectedError: layers that map coordinates lead to no common bottom.
      AxisMismatchException: layers on the way take other axes.
      CropError: as `conv_params`.

    Source: caffe/python/caffe/coord_map.py. Differs: bottoms are searched nearest
    first.
    """
    from_maps = _maps_back(top_from)
    for top, to_map in _maps_back(top_to).items():
        if top in from_maps:
            return compose(to_map, inverse(from_maps[top]))
    raise UnconnectedError(
        describe(
            "",
            "Could not compute map between tops; are they connected by spatial layers? "
            f"They are made by {top_from.fn.type_name} and {top_to.fn.type_name}",
        )
    )


def crop(top_from: Top, top_to: Top) -> Top:
    """Makes a Crop layer that cuts out of one top what lies over another.

    Args:
      top_from: the top to cut.
      top_to: the top that says what to keep.

    Raises:
      CropError: the pixels of the two are not of one size, or would have to be moved
        the other way or by a part of a pixel.
      CaffeError: as `coord_map_from_to`.

    Source: caffe/python/caffe/coord_map.py. Differs: tops of like pixels, which name no
    axis, are cut at axis 2.
    """
    axis, scale, shift = coord_map_from_to(top_from, top_to)
    scale, shift = np.atleast_1d(scale), np.atleast_1d(shift)
    if not np.all(scale == 1):
        raise _refusal(f"scale mismatch on crop (a = {scale})", "a = 1")
    if not np.all(shift <= 0):
        raise _refusal(f"cannot crop negative offset (b = {shift})", "b of at most 0")
    if not np.all(np.round(shift) == shift):
        raise _refusal(f"cannot crop noninteger offset (b = {shift})", "whole pixels")
    offset = [int(-length) for length in np.round(shift)]
    first = _SPATIAL_AXIS if axis is None else axis + 1
    crop_param = {"axis": first, "offset": offset}
    return layers.Crop(top_from, top_to, crop_param=crop_param)


def _maps_back(start: Top) -> dict[Top, Map]:
    """Returns the maps from a top's coordinates to those of what it is made of."""
    maps = {start: IDENTITY}
    frontier = deque([start])
    while frontier:
        top = frontier.popleft()
        # What says how much a Crop layer keeps need not lie where the rest does.
        bottoms = top.fn.inputs[: 1 if top.fn.type_name == "Crop" else None]
        if not bottoms:
            continue
        try:
            step = coord_map(top.fn)
        except UndefinedMapException:
            continue
        for bottom in bottoms:
            if bottom not in maps:
                maps[bottom] = compose(maps[top], step)
                frontier.append(bottom)
    return maps


def _own(fn: Function, name: str | None) -> dict[str, Any]:
    return {**fn.params, **fn.params.get(name or "convolution_param", {})}


def _refusal(problem: str, accepted: str) -> CropError:
    return CropError(describe("crop", problem, accepted))
