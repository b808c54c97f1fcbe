"""Convolution and its reverse, in the form that each platform runs fastest.

Follows caffe/src/caffe/layers/base_conv_layer.cpp and conv_layer.cpp.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from jax import lax


def convolution(
    bottom: jax.Array,
    weight: jax.Array,
    *,
    stride: Sequence[int],
    pad: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    group: int = 1,
) -> jax.Array:
    """Correlates the channels of each group with the filters of that group.

    On the CPU, XLA runs several groups at once slowly, their gradients above all
    (6 to 80 times slower than one convolution per group), so there the groups are
    taken apart; groups of a single channel become sums of shifted products, and filters
    of a single pixel matrix products. Precision is jax.default_matmul_precision's.

    Args:
      bottom: (N, C, *size) float32.
      weight: (K, C / group, *kernel) float32.
      stride: pixels between windows, one per spatial axis.
      pad: rows of zeros before and after each spatial axis.
      dilation: pixels between the elements of a filter, one per spatial axis.
      group: divides C and K.

    Returns:
      (N, K, *out) float32, out = (size + pads - extent) // stride + 1, with
      extent = dilation * (kernel - 1) + 1.

    Source: caffe/src/caffe/layers/base_conv_layer.cpp, forward_cpu_gemm.
    Differs: none.
    """

    def plain(bottom: jax.Array, weight: jax.Array) -> jax.Array:
        return convolution_plain(
            bottom, weight, stride=stride, pad=pad, dilation=dilation, group=group
        )

    def by_group(bottom: jax.Array, weight: jax.Array) -> jax.Array:
        bottoms = jnp.split(bottom, group, axis=1)
        weights = jnp.split(weight, group, axis=0)
        tops = [
            convolution_plain(b, w, stride=stride, pad=pad, dilation=dilation)
            for b, w in zip(bottoms, weights, strict=True)
        ]
        return jnp.concatenate(tops, axis=1)

    def by_tap(bottom: jax.Array, weight: jax.Array) -> jax.Array:
        return _depthwise(bottom, weight, stride, pad, dilation)

    def by_pixel(bottom: jax.Array, weight: jax.Array) -> jax.Array:
        return _pointwise(bottom, weight, stride)

    if group == 1:
        if math.prod(weight.shape[2:]) == 1 and not any(map(any, pad)):
            return lax.platform_dependent(bottom, weight, cpu=by_pixel, default=plain)
        return plain(bottom, weight)
    few_taps = math.prod(weight.shape[2:]) <= _MOST_TAPS
    cpu = by_tap if weight.shape[1] == 1 and few_taps else by_group
    return lax.platform_dependent(bottom, weight, cpu=cpu, default=plain)


def convolution_plain(
    bottom: jax.Array,
    weight: jax.Array,
    *,
    stride: Sequence[int],
    pad: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    group: int = 1,
) -> jax.Array:
    """Does as `convolution`, in one XLA operation on every platform."""
    axes = tuple(range(bottom.ndim))
    return lax.conv_general_dilated(
        bottom,
        weight,
        tuple(stride),
        tuple(pad),
        rhs_dilation=tuple(dilation),
        dimension_numbers=lax.ConvDimensionNumbers(axes, axes, axes),
        feature_group_count=group,
    )


def deconvolution(
    bottom: jax.Array,
    weight: jax.Array,
    out: Sequence[int],
    *,
    stride: Sequence[int],
    pad: Sequence[int],
    dilation: Sequence[int],
    group: int = 1,
) -> jax.Array:
    """Runs a convolution backwards: its gradient by its bottom.

    That very gradient is what runs, in the form that `convolution` has on the platform;
    its own gradients are convolutions again.

    Args:
      bottom: (N, K, *size) float32, in the place of the convolution's top.
      weight: (K, C / group, *kernel) float32, the convolution's.
      out: lengths of the spatial axes of what comes out, whose convolution has `size`.
      stride: pixels between windows, one per spatial axis.
      pad: rows of zeros on both sides of `out`, one per spatial axis.
      dilation: pixels between the elements of a filter, one per spatial axis.
      group: divides C and K.

    Returns:
      (N, C, *out) float32.

    Source: caffe/src/caffe/layers/base_conv_layer.cpp, backward_cpu_gemm.
    Differs: none.
    """

    def forwards(top: jax.Array) -> jax.Array:
        pads = [(p, p) for p in pad]
        return convolution(
            top, weight, stride=stride, pad=pads, dilation=dilation, group=group
        )

    channels = weight.shape[1] * group
    zeros = jnp.zeros((bottom.shape[0], channels, *out), bottom.dtype)
    (top,) = jax.vjp(forwards, zeros)[1](bottom)
    return top


def im2col(
    bottom: jax.Array,
    kernel: Sequence[int],
    *,
    stride: Sequence[int],
    pad: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> jax.Array:
    """Copies each window's elements into the channels.

    Args:
      bottom: (N, C, *size) float32.
      kernel: elements of a window, one per spatial axis.
      stride: pixels between windows, likewise.
      pad: rows of zeros before and after each spatial axis.
      dilation: pixels between the elements of a window, one per spatial axis.

    Returns:
      (N, C * product of kernel, *out) float32, the channels outermost and the window's
      elements in row order.

    Source: caffe/src/caffe/util/im2col.cpp. Differs: none.
    """
    N, C = bottom.shape[:2]
    windows = [w for _, w in _taps(bottom, kernel, stride, pad, dilation)]
    top = jnp.stack(windows, axis=2)
    return top.reshape(N, C * len(windows), *top.shape[3:])


# From this many pixels on, a product for each image beats one that needs its channels
# innermost: at 56 x 56 by 2 to 2.5 times, at 14 x 14 it loses by as much.
_MANY_PIXELS = 512


def _pointwise(
    bottom: jax.Array, weight: jax.Array, stride: Sequence[int]
) -> jax.Array:
    """Convolves with filters of one pixel: mixes the channels of each pixel."""
    N, C = bottom.shape[:2]
    steps = (1, 1, *stride)
    bottom = lax.slice(bottom, (0,) * bottom.ndim, bottom.shape, steps)
    out = bottom.shape[2:]
    pixels = bottom.reshape(N, C, math.prod(out))
    matrix = weight.reshape(weight.shape[:2])
    if math.prod(out) >= _MANY_PIXELS:
        each = jnp.broadcast_to(matrix, (N, *matrix.shape))
        top = lax.dot_general(each, pixels, (((2,), (1,)), ((0,), (0,))))
    else:
        top = lax.dot_general(
            pixels.transpose(0, 2, 1), matrix, (((2,), (1,)), ((), ()))
        ).transpose(0, 2, 1)
    return top.reshape(N, weight.shape[0], *out)


# Beyond this many filter elements the sum over them no longer pays.
_MOST_TAPS = 64


def _depthwise(
    bottom: jax.Array,
    weight: jax.Array,
    stride: Sequence[int],
    pad: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> jax.Array:
    """Convolves each channel with its own K / C filters, one filter element a time."""
    N, C = bottom.shape[:2]
    kernel = weight.shape[2:]
    filters = weight.reshape(C, -1, *kernel)
    top: jax.Array | float = 0.0
    for tap, window in _taps(bottom, kernel, stride, pad, dilation):
        factor = filters[(slice(None), slice(None), *tap)]
        factor = factor.reshape(1, C, -1, *[1] * len(kernel))
        top += window[:, :, None] * factor
    assert isinstance(top, jax.Array)
    return top.reshape(N, weight.shape[0], *top.shape[3:])


def _taps(
    bottom: jax.Array,
    kernel: Sequence[int],
    stride: Sequence[int],
    pad: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> Iterator[tuple[tuple[int, ...], jax.Array]]:
    """Yields each element of a window and, for all windows, what lies under it."""
    N, C = bottom.shape[:2]
    padded = jnp.pad(bottom, ((0, 0), (0, 0), *pad))
    extent = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    out = [
        (size - e) // s + 1
        for size, e, s in zip(padded.shape[2:], extent, stride, strict=True)
    ]
    for tap in itertools.product(*map(range, kernel)):
        start = [t * d for t, d in zip(tap, dilation, strict=True)]
        limit = [
            a + (o - 1) * s + 1 for a, o, s in zip(start, out, stride, strict=True)
        ]
        yield (
            tap,
            lax.slice(padded, (0, 0, *start), (N, C, *limit), (1, 1, *stride)),
        )
