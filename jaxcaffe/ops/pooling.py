"""Maxima and means of windows over rows and columns, with their gradients.

Follows caffe/src/caffe/layers/pooling_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcaffe.ops.plain import is_plain
from jaxcaffe.ops.pooling_cpu import ave_pool_by_axis, max_pool_by_axis
from jaxcaffe.ops.windows import Windows, far_pads, has_empty_window, window_areas


def max_pool(bottom: jax.Array, windows: Windows) -> jax.Array:
    """Takes the maximum of each window; padding never wins.

    The gradient goes to the first maximal element of a window, in row order. On the
    CPU, the maximum of a small window is taken along one axis after the other, and the
    gradient is gathered from the windows that hold a pixel, which took a fifth of the
    time of XLA's select-and-scatter there.

    Args:
      bottom: (N, C, H, W) float32.
      windows: as laid over (H, W).

    Returns:
      (N, C, H', W') float32; -FLT_MAX for a window without a pixel, which a stride
      larger than the kernel can make.

    Source: caffe/src/caffe/layers/pooling_layer.cpp, Forward_cpu and Backward_cpu.
    Differs: a NaN in a window makes its top NaN, where Caffe passes over it.
    """
    if windows.kernel[0] * windows.kernel[1] <= _MOST_TAPS and not is_plain():
        top = lax.platform_dependent(
            bottom,
            cpu=lambda x: max_pool_by_axis(x, windows),
            default=lambda x: max_pool_plain(x, windows),
        )
    else:
        top = max_pool_plain(bottom, windows)
    if has_empty_window(windows):
        top = jnp.maximum(top, jnp.finfo(top.dtype).min)
    return top


def max_pool_plain(bottom: jax.Array, windows: Windows) -> jax.Array:
    """Does as `max_pool`, in one XLA operation, but for windows without a pixel."""
    return lax.reduce_window(
        bottom, np.float32(-np.inf), lax.max, *_reduce_window_args(windows)
    )


def max_mask(bottom: jax.Array, windows: Windows) -> jax.Array:
    """Finds the maximum of each window.

    Args:
      bottom: (N, C, H, W) float32.
      windows: as laid over (H, W).

    Returns:
      (N, C, H', W') float32: row * W + column of the first maximal element; -1 for a
      window without a pixel. Without gradient.

    Source: caffe/src/caffe/layers/pooling_layer.cpp, Forward_cpu (use_top_mask).
    Differs: none.
    """
    bottom = lax.stop_gradient(bottom)
    H, W = bottom.shape[2:]
    nowhere = np.int32(H * W)
    index = jnp.arange(H * W, dtype=jnp.int32).reshape(H, W)

    def better(a, b):
        first = (a[0] > b[0]) | ((a[0] == b[0]) & (a[1] < b[1]))
        return tuple(jnp.where(first, x, y) for x, y in zip(a, b, strict=True))

    _, mask = lax.reduce_window(
        (bottom, jnp.broadcast_to(index, bottom.shape)),
        (np.float32(-np.inf), nowhere),
        better,
        *_reduce_window_args(windows),
    )
    return jnp.where(mask == nowhere, -1, mask).astype(bottom.dtype)


def ave_pool(bottom: jax.Array, windows: Windows) -> jax.Array:
    """Divides the sum of each window by the area that it has on the padded image.

    The area ends at the far edge of the padding: padded pixels count, those beyond
    do not. On the CPU, rows are summed before columns, 2 to 8 times as fast as both
    at once.

    Args:
      bottom: (N, C, H, W) float32.
      windows: as laid over (H, W).

    Returns:
      (N, C, H', W') float32.

    Source: caffe/src/caffe/layers/pooling_layer.cpp, Forward_cpu.
    Differs: a window without a pixel, which a stride larger than the kernel can make,
    gives 0, where Caffe may divide 0 by 0.
    """
    if is_plain():
        return ave_pool_plain(bottom, windows)
    return lax.platform_dependent(
        bottom,
        cpu=lambda x: ave_pool_by_axis(x, windows),
        default=lambda x: ave_pool_plain(x, windows),
    )


def ave_pool_plain(bottom: jax.Array, windows: Windows) -> jax.Array:
    """Does as `ave_pool`, both axes at once."""
    sums = lax.reduce_window(
        bottom, np.float32(0), lax.add, *_reduce_window_args(windows)
    )
    return sums / window_areas(windows)


def stochastic_pool(
    bottom: jax.Array, windows: Windows, key: jax.Array | None
) -> jax.Array:
    """Draws one element of each window, or takes the mean that draws would have.

    An element x of a window with sum S is drawn with probability x / S; the mean is
    sum(x^2) / S, or 0 if S is not positive. Bottoms should not be negative.

    Args:
      bottom: (N, C, H, W) float32.
      windows: as laid over (H, W), without padding.
      key: to draw (TRAIN), or None for the mean (TEST).

    Returns:
      (N, C, H', W') float32.

    Source: caffe/src/caffe/layers/pooling_layer.cu, StoPoolForwardTrain and
    StoPoolForwardTest; Zeiler and Fergus, "Stochastic Pooling", 2013.
    Differs: Caffe has no gradient for TEST.
    """
    taps = jnp.stack([tap for _, _, tap in _taps(bottom, windows, 0.0)])
    total = taps.sum(axis=0)
    if key is None:
        positive = total > 0
        return jnp.where(
            positive, (taps**2).sum(axis=0) / jnp.where(positive, total, 1), 0
        )
    threshold = jax.random.uniform(key, total.shape, total.dtype) * total
    reached = lax.stop_gradient(jnp.cumsum(taps, axis=0) >= threshold)
    # Rounding may leave the last sum short of the threshold: then the last counts.
    drawn = jnp.where(reached.any(axis=0), reached.argmax(axis=0), len(taps) - 1)
    return jnp.take_along_axis(taps, drawn[None], axis=0)[0]


# Beyond this many elements a window is cheaper in one operation.
_MOST_TAPS = 64


def _reduce_window_args(windows: Windows) -> tuple:
    return (
        (1, 1, *windows.kernel),
        (1, 1, *windows.stride),
        ((0, 0), (0, 0), *far_pads(windows)),
    )


def _taps(
    bottom: jax.Array, windows: Windows, fill: float
) -> Iterator[tuple[int, int, jax.Array]]:
    """Yields (row, column, (N, C, H', W') array) for each element of a window."""
    N, C = bottom.shape[:2]
    (kernel_h, kernel_w), stride = windows.kernel, windows.stride
    edges = [(before, after, 0) for before, after in far_pads(windows)]
    padded = lax.pad(
        bottom, jnp.asarray(fill, bottom.dtype), [(0, 0, 0), (0, 0, 0), *edges]
    )
    rows, columns = (
        (p - 1) * s + 1 for p, s in zip(windows.pooled, stride, strict=True)
    )
    for i in range(kernel_h):
        for j in range(kernel_w):
            limit = (N, C, i + rows, j + columns)
            yield i, j, lax.slice(padded, (0, 0, i, j), limit, (1, 1, *stride))
