"""Pooling in the form that a CPU runs fastest: channels innermost, axis by axis.

Follows caffe/src/caffe/layers/pooling_layer.cpp. XLA's CPU convolutions have their
channels innermost too, so that nothing is copied between the two; and what is done to
neighbouring channels is done by one instruction.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcaffe.ops.windows import Windows, far_pads, window_areas


def ave_pool_by_axis(bottom: jax.Array, windows: Windows) -> jax.Array:
    """Sums rows before columns, then divides; see pooling.ave_pool."""
    sums = _reduce_by_axis(_channels_last(bottom), windows, 0, lax.add)
    return _channels_first(sums / window_areas(windows)[:, :, None])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool_by_axis(bottom: jax.Array, windows: Windows) -> jax.Array:
    """Takes the maximum of rows before that of columns; see pooling.max_pool."""
    bottom = _channels_last(bottom)
    return _channels_first(_reduce_by_axis(bottom, windows, -np.inf, lax.max))


def _max_pool_forward(
    bottom: jax.Array, windows: Windows
) -> tuple[jax.Array, jax.Array]:
    """Returns the maxima and which element of its window each is, as int8.

    Each element is compared with the finished maximum. Carried along with the maximum
    so far, the number of the winner makes XLA take all maxima again and one by one,
    three to six times as long.
    """
    bottom = _channels_last(bottom)
    best = _reduce_by_axis(bottom, windows, -np.inf, lax.max)
    winner = jnp.full(best.shape, -1, jnp.int8)
    for i, j, tap in reversed(list(_taps(bottom, windows, -np.inf))):
        # The first maximum wins, or the first NaN.
        wins = (tap == best) | jnp.isnan(tap)
        winner = jnp.where(wins, jnp.int8(i * windows.kernel[1] + j), winner)
    return _channels_first(best), winner


def _max_pool_backward(
    windows: Windows, winner: jax.Array, top_diff: jax.Array
) -> tuple[jax.Array]:
    """Adds up, for each pixel, the gradients of the windows that it won.

    Pixel p of an axis is element a + u * stride of window p // stride - u, with
    a = p % stride. All pixels of one remainder (a, b) look at the windows alike, so
    each remainder is a sum of shifted arrays and the results are interleaved.
    """
    (kernel_h, kernel_w), (stride_h, stride_w) = windows.kernel, windows.stride
    top_diff = _channels_last(top_diff)
    N, H, W, C = top_diff.shape
    more_h, more_w = -(-kernel_h // stride_h) - 1, -(-kernel_w // stride_w) - 1
    edges = [(0, 0, 0), (more_h, more_h, 0), (more_w, more_w, 0), (0, 0, 0)]
    diff = lax.pad(top_diff, jnp.zeros((), top_diff.dtype), edges)
    winner = lax.pad(winner, jnp.int8(-1), edges)
    H, W = H + more_h, W + more_w

    def remainder(a: int, b: int) -> jax.Array:
        total = jnp.zeros((N, H, W, C), top_diff.dtype)
        for u, i in enumerate(range(a, kernel_h, stride_h)):
            for v, j in enumerate(range(b, kernel_w, stride_w)):
                start = (0, more_h - u, more_w - v, 0)
                limit = (N, more_h - u + H, more_w - v + W, C)
                won = lax.slice(winner, start, limit) == i * kernel_w + j
                total += jnp.where(won, lax.slice(diff, start, limit), 0)
        return total

    rows = []
    for a in range(stride_h):
        columns = [remainder(a, b) for b in range(stride_w)]
        rows.append(jnp.stack(columns, axis=3).reshape(N, H, W * stride_w, C))
    padded = jnp.stack(rows, axis=2).reshape(N, H * stride_h, W * stride_w, C)
    # From the padded image back to the bottom: pixels past the last window get 0.
    edges = [
        (-pad, pad + size - length, 0)
        for pad, size, length in zip(
            windows.pad, windows.size, padded.shape[1:3], strict=True
        )
    ]
    zero = jnp.zeros((), top_diff.dtype)
    return (_channels_first(lax.pad(padded, zero, [(0, 0, 0), *edges, (0, 0, 0)])),)


max_pool_by_axis.defvjp(_max_pool_forward, _max_pool_backward)


def _reduce_by_axis(
    bottom: jax.Array,
    windows: Windows,
    start: float,
    combine: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """Combines rows before columns; (N, H, W, C) -> (N, H', W', C)."""
    (kernel_h, kernel_w), (stride_h, stride_w) = windows.kernel, windows.stride
    (top_pad, left_pad) = far_pads(windows)
    rows = lax.reduce_window(
        bottom,
        np.float32(start),
        combine,
        (1, kernel_h, 1, 1),
        (1, stride_h, 1, 1),
        ((0, 0), top_pad, (0, 0), (0, 0)),
    )
    return lax.reduce_window(
        rows,
        np.float32(start),
        combine,
        (1, 1, kernel_w, 1),
        (1, 1, stride_w, 1),
        ((0, 0), (0, 0), left_pad, (0, 0)),
    )


def _taps(
    bottom: jax.Array, windows: Windows, fill: float
) -> Iterator[tuple[int, int, jax.Array]]:
    """Yields (row, column, (N, H', W', C) array) for each element of a window."""
    N, _, _, C = bottom.shape
    (kernel_h, kernel_w), stride = windows.kernel, windows.stride
    edges = [(before, after, 0) for before, after in far_pads(windows)]
    padded = lax.pad(
        bottom, jnp.asarray(fill, bottom.dtype), [(0, 0, 0), *edges, (0, 0, 0)]
    )
    rows, columns = (
        (p - 1) * s + 1 for p, s in zip(windows.pooled, stride, strict=True)
    )
    for i in range(kernel_h):
        for j in range(kernel_w):
            limit = (N, i + rows, j + columns, C)
            yield i, j, lax.slice(padded, (0, i, j, 0), limit, (1, *stride, 1))


def _channels_last(x: jax.Array) -> jax.Array:
    return x.transpose(0, 2, 3, 1)


def _channels_first(x: jax.Array) -> jax.Array:
    return x.transpose(0, 3, 1, 2)
