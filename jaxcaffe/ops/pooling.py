"""Maxima and means of windows over rows and columns, with their gradients.

Follows caffe/src/caffe/layers/pooling_layer.cpp.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


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
    if windows.kernel[0] * windows.kernel[1] <= _MOST_TAPS:
        top = lax.platform_dependent(
            bottom,
            cpu=lambda x: _max_pool_by_axis(x, windows),
            default=lambda x: max_pool_plain(x, windows),
        )
    else:
        top = max_pool_plain(bottom, windows)
    if _has_empty_window(windows):
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
    do not. Rows are summed before columns, on the CPU 2 to 8 times as fast as both at
    once.

    Args:
      bottom: (N, C, H, W) float32.
      windows: as laid over (H, W).

    Returns:
      (N, C, H', W') float32.

    Source: caffe/src/caffe/layers/pooling_layer.cpp, Forward_cpu.
    Differs: a window without a pixel, which a stride larger than the kernel can make,
    gives 0, where Caffe may divide 0 by 0.
    """
    (kernel_h, kernel_w), (stride_h, stride_w) = windows.kernel, windows.stride
    (top_pad, left_pad) = _far_pads(windows)
    sums = lax.reduce_window(
        bottom,
        np.float32(0),
        lax.add,
        (1, 1, kernel_h, 1),
        (1, 1, stride_h, 1),
        ((0, 0), (0, 0), top_pad, (0, 0)),
    )
    sums = lax.reduce_window(
        sums,
        np.float32(0),
        lax.add,
        (1, 1, 1, kernel_w),
        (1, 1, 1, stride_w),
        ((0, 0), (0, 0), (0, 0), left_pad),
    )
    return sums / window_areas(windows)


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


def window_areas(windows: Windows) -> np.ndarray:
    """Returns the divisors of `ave_pool`: (H', W') float32, at least 1."""
    lengths = []
    for size, kernel, stride, pad, pooled in zip(*windows, strict=True):
        start = np.arange(pooled) * stride - pad
        lengths.append(np.minimum(start + kernel, size + pad) - start)
    return np.maximum(np.outer(*lengths), 1).astype(np.float32)


# Beyond this many elements a window is cheaper in one operation.
_MOST_TAPS = 64


def _far_pads(windows: Windows) -> list[tuple[int, int]]:
    """Returns (before, after) per axis, after just enough for the last window."""
    return [
        (pad, max(0, (pooled - 1) * stride + kernel - size - pad))
        for size, kernel, stride, pad, pooled in zip(*windows, strict=True)
    ]


def _reduce_window_args(windows: Windows) -> tuple:
    return (
        (1, 1, *windows.kernel),
        (1, 1, *windows.stride),
        ((0, 0), (0, 0), *_far_pads(windows)),
    )


def _has_empty_window(windows: Windows) -> bool:
    return any(
        (pooled - 1) * stride - pad >= size
        for size, _, stride, pad, pooled in zip(*windows, strict=True)
    )


def _taps(
    bottom: jax.Array, windows: Windows, fill: float
) -> Iterator[tuple[int, int, jax.Array]]:
    """Yields (row, column, (N, C, H', W') array) for each element of a window."""
    N, C = bottom.shape[:2]
    (kernel_h, kernel_w), stride = windows.kernel, windows.stride
    edges = [(before, after, 0) for before, after in _far_pads(windows)]
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool_by_axis(bottom: jax.Array, windows: Windows) -> jax.Array:
    """Takes the maximum of rows before that of columns."""
    (kernel_h, kernel_w), (stride_h, stride_w) = windows.kernel, windows.stride
    (top_pad, left_pad) = _far_pads(windows)
    lowest = np.float32(-np.inf)
    maxima = lax.reduce_window(
        bottom,
        lowest,
        lax.max,
        (1, 1, kernel_h, 1),
        (1, 1, stride_h, 1),
        ((0, 0), (0, 0), top_pad, (0, 0)),
    )
    return lax.reduce_window(
        maxima,
        lowest,
        lax.max,
        (1, 1, 1, kernel_w),
        (1, 1, 1, stride_w),
        ((0, 0), (0, 0), (0, 0), left_pad),
    )


def _max_pool_forward(
    bottom: jax.Array, windows: Windows
) -> tuple[jax.Array, jax.Array]:
    """Returns the maxima and which element of its window each is, as int8.

    Each element is compared with the finished maximum. Carried along with the maximum
    so far, the number of the winner makes XLA take all maxima again and one by one,
    three to six times as long.
    """
    best = _max_pool_by_axis(bottom, windows)
    winner = jnp.full(best.shape, -1, jnp.int8)
    for i, j, tap in reversed(list(_taps(bottom, windows, -np.inf))):
        # The first maximum wins, or the first NaN.
        wins = (tap == best) | jnp.isnan(tap)
        winner = jnp.where(wins, jnp.int8(i * windows.kernel[1] + j), winner)
    return best, winner


def _max_pool_backward(
    windows: Windows, winner: jax.Array, top_diff: jax.Array
) -> tuple[jax.Array]:
    """Adds up, for each pixel, the gradients of the windows that it won.

    Pixel p of an axis is element a + u * stride of window p // stride - u, with
    a = p % stride. All pixels of one remainder (a, b) look at the windows alike, so
    each remainder is a sum of shifted arrays and the results are interleaved.
    """
    (kernel_h, kernel_w), (stride_h, stride_w) = windows.kernel, windows.stride
    N, C, H, W = top_diff.shape
    more_h, more_w = -(-kernel_h // stride_h) - 1, -(-kernel_w // stride_w) - 1
    edges = [(0, 0, 0), (0, 0, 0), (more_h, more_h, 0), (more_w, more_w, 0)]
    diff = lax.pad(top_diff, jnp.zeros((), top_diff.dtype), edges)
    winner = lax.pad(winner, jnp.int8(-1), edges)
    H, W = H + more_h, W + more_w

    def remainder(a: int, b: int) -> jax.Array:
        total = jnp.zeros((N, C, H, W), top_diff.dtype)
        for u, i in enumerate(range(a, kernel_h, stride_h)):
            for v, j in enumerate(range(b, kernel_w, stride_w)):
                start = (0, 0, more_h - u, more_w - v)
                limit = (N, C, more_h - u + H, more_w - v + W)
                won = lax.slice(winner, start, limit) == i * kernel_w + j
                total += jnp.where(won, lax.slice(diff, start, limit), 0)
        return total

    rows = []
    for a in range(stride_h):
        columns = [remainder(a, b) for b in range(stride_w)]
        rows.append(jnp.stack(columns, axis=-1).reshape(N, C, H, W * stride_w))
    padded = jnp.stack(rows, axis=3).reshape(N, C, H * stride_h, W * stride_w)
    # From the padded image back to the bottom: pixels past the last window get 0.
    edges = [
        (-pad, pad + size - length, 0)
        for pad, size, length in zip(
            windows.pad, windows.size, padded.shape[2:], strict=True
        )
    ]
    zero = jnp.zeros((), top_diff.dtype)
    return (lax.pad(padded, zero, [(0, 0, 0), (0, 0, 0), *edges]),)


_max_pool_by_axis.defvjp(_max_pool_forward, _max_pool_backward)
