"""Where windows lie over the rows and columns of an image.

Follows caffe/src/caffe/layers/pooling_layer.cpp, Reshape.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Windows(NamedTuple):
    """Where the windows lie, as (rows, columns) in pixels. Hashable."""

    size: tuple[int, int]  # of the bottom
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]  # before the first row and column
    pooled: tuple[int, int]  # of the top


def pooled_size(
    size: int, kernel: int, stride: int, pad: int, ceil: bool, padded: bool
) -> int:
    """Returns how many windows Caffe lays along an axis; below 1 if none fits.

    The last window may stick out with `ceil`. If either axis is `padded`, a last
    window that would start beyond the image and its near padding is dropped.

    Source: caffe/src/caffe/layers/pooling_layer.cpp, Reshape.
    Differs: none.
    """
    room = size + 2 * pad - kernel
    pooled = (-(-room // stride) if ceil else room // stride) + 1
    if padded and (pooled - 1) * stride >= size + pad:
        pooled -= 1
    return pooled


def window_areas(windows: Windows) -> np.ndarray:
    """Returns the divisors of average pooling: (H', W') float32, at least 1."""
    lengths = []
    for size, kernel, stride, pad, pooled in zip(*windows, strict=True):
        start = np.arange(pooled) * stride - pad
        lengths.append(np.minimum(start + kernel, size + pad) - start)
    return np.maximum(np.outer(*lengths), 1).astype(np.float32)


def far_pads(windows: Windows) -> list[tuple[int, int]]:
    """Returns (before, after) per axis, after just enough for the last window."""
    return [
        (pad, max(0, (pooled - 1) * stride + kernel - size - pad))
        for size, kernel, stride, pad, pooled in zip(*windows, strict=True)
    ]


def has_empty_window(windows: Windows) -> bool:
    """Returns whether a window holds no pixel."""
    return any(
        (pooled - 1) * stride - pad >= size
        for size, _, stride, pad, pooled in zip(*windows, strict=True)
    )
