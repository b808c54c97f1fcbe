"""Convolutions that XLA's CPU convolution is slow at, as others or as products.

Follows caffe/src/caffe/layers/base_conv_layer.cpp, of which it is another order of
operations. All arrays have their channels innermost meanwhile, which is what XLA's CPU
convolution works on, so that no copy is needed on the way.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcaffe.ops.channels_last import Windows, convolve

Pads = tuple[tuple[int, int], tuple[int, int]]
Stride = tuple[int, int]


class Forms(NamedTuple):
    """Which parts of a convolution and its gradients have a form of their own."""

    top: bool  # see _top_by_columns
    weight: bool  # its gradient by the same
    bottom: bool  # its gradient by _overlap_add
    strided: bool  # top and weight's gradient by _top_by_strides


# Of more channels, several columns at once cost more than they save.
_FEW_CHANNELS = 4
# The gradient of the weights gains from a single channel alone.
_ONE_CHANNEL = 1
# From this stride on; with 2 (7 x 7 and 3 x 3 filters) it gains nothing.
_LARGE_STRIDE = 4
# Least pixels of bottom for one of top that make the zeros around the top's gradient
# outweigh the adding of windows.
_MUCH_PADDING = 1.5


def find_forms(
    bottom: Sequence[int],
    weight: Sequence[int],
    *,
    stride: Sequence[int],
    pad: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> Forms:
    """Returns which forms pay for a convolution in one group.

    Args:
      bottom: shape (N, C, *size).
      weight: shape (K, C, *kernel).
      stride: pixels between windows, one per spatial axis.
      pad: rows of zeros before and after each spatial axis.
      dilation: pixels between the elements of a filter, one per spatial axis.
    """
    none = Forms(False, False, False, False)
    if len(bottom) != 4 or any(n != 1 for n in dilation):
        return none
    kernel = weight[2:]
    if any(n != 1 for n in stride):
        large = bottom[1] <= _FEW_CHANNELS and kernel[1] > stride[1] >= _LARGE_STRIDE
        return none._replace(strided=large)
    out = [n + sum(p) - k + 1 for n, p, k in zip(bottom[2:], pad, kernel, strict=True)]
    # So many columns at once are two blocks of the bottom's.
    wide = kernel[1] > 2 and out[1] >= 2 * (kernel[1] - 1)
    few = wide and bottom[1] <= _FEW_CHANNELS
    return Forms(
        top=few,
        weight=few and bottom[1] <= _ONE_CHANNEL,
        bottom=bottom[2] * bottom[3] > _MUCH_PADDING * out[0] * out[1],
        strided=False,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def convolution_cpu(
    bottom: jax.Array, weight: jax.Array, stride: Stride, pad: Pads, forms: Forms
) -> jax.Array:
    """Correlates with dilation 1, in one group.

    Args:
      bottom: (N, C, H, W) float32.
      weight: (K, C, kernel_h, kernel_w) float32.
      stride: pixels between windows.
      pad: rows of zeros before and after each spatial axis.
      forms: from `find_forms`.

    Returns:
      (N, K, H', W') float32.

    Source: caffe/src/caffe/layers/base_conv_layer.cpp, forward_cpu_gemm.
    Differs: none.
    """
    if forms.strided:
        return _top_by_strides(bottom, weight, stride, pad)
    if forms.top:
        return _top_by_columns(bottom, weight, pad)
    return _plain(bottom, weight, stride, pad)


def _forward(
    bottom: jax.Array, weight: jax.Array, stride: Stride, pad: Pads, forms: Forms
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolution_cpu(bottom, weight, stride, pad, forms), (bottom, weight)


def _backward(
    stride: Stride,
    pad: Pads,
    forms: Forms,
    kept: tuple[jax.Array, jax.Array],
    top_diff: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    bottom, weight = kept

    def top(weight: jax.Array) -> jax.Array:
        if forms.strided:
            return _top_by_strides(bottom, weight, stride, pad)
        if forms.weight:
            return _top_by_columns(bottom, weight, pad)
        return _plain(bottom, weight, stride, pad)

    (weight_diff,) = jax.vjp(top, weight)[1](top_diff)
    if forms.bottom:
        return _overlap_add(top_diff, weight, bottom.shape, pad), weight_diff
    plain = functools.partial(_plain, weight=weight, stride=stride, pad=pad)
    (bottom_diff,) = jax.vjp(plain, bottom)[1](top_diff)
    return bottom_diff, weight_diff


convolution_cpu.defvjp(_forward, _backward)


def _plain(
    bottom: jax.Array, weight: jax.Array, stride: Stride, pad: Pads
) -> jax.Array:
    filters = weight.transpose(2, 3, 1, 0)
    top = convolve(bottom.transpose(0, 2, 3, 1), filters, Windows(stride, pad, (1, 1)))
    return top.transpose(0, 3, 1, 2)


def _top_by_strides(
    bottom: jax.Array, weight: jax.Array, stride: Stride, pad: Pads
) -> jax.Array:
    """Takes the columns of one stride for the channels of one pixel.

    Windows then lie side by side, and what a product gathers comes in longer runs.
    """
    N, C, _, W = bottom.shape
    K, _, kernel_h, kernel_w = weight.shape
    step = stride[1]
    out = (W + sum(pad[1]) - kernel_w) // step + 1
    wide = -(-kernel_w // step)  # filter's width in blocks
    blocks = out + wide - 1
    zero, none = jnp.zeros((), bottom.dtype), (0, 0, 0)
    edge = (pad[1][0], blocks * step - W - pad[1][0], 0)
    pixels = lax.pad(bottom, zero, [none, none, (*pad[0], 0), edge])
    pixels = pixels.reshape(N, C, -1, blocks, step).transpose(0, 2, 3, 4, 1)
    filters = lax.pad(weight, zero, [none, none, none, (0, wide * step - kernel_w, 0)])
    filters = filters.reshape(K, C, kernel_h, wide, step).transpose(2, 3, 4, 1, 0)
    top = convolve(
        pixels.reshape(*pixels.shape[:3], step * C),
        filters.reshape(kernel_h, wide, step * C, K),
        Windows((stride[0], 1), ((0, 0), (0, 0)), (1, 1)),
    )
    return top.transpose(0, 3, 1, 2)


def _top_by_columns(bottom: jax.Array, weight: jax.Array, pad: Pads) -> jax.Array:
    """Computes kernel_w - 1 columns of the top at once.

    As many columns of the bottom, with their channels, become the channels of one
    pixel, of which the filters then cover two. Most of a product's time with few
    channels goes into gathering what it multiplies; this gathers longer runs, and a
    third as many, for less than twice the arithmetic.
    """
    N, C, H, W = bottom.shape
    K, _, kernel_h, kernel_w = weight.shape
    block = kernel_w - 1
    out = W + sum(pad[1]) - kernel_w + 1
    blocks = -(-out // block) + 1
    zero = jnp.zeros((), bottom.dtype)
    edge = (pad[1][0], blocks * block - W - pad[1][0], 0)
    padded = lax.pad(
        bottom.transpose(0, 2, 3, 1), zero, [(0, 0, 0), (0, 0, 0), edge, (0, 0, 0)]
    )
    filters = weight.transpose(2, 3, 1, 0)
    # Column t of a block has the filters t pixels further to the right.
    shifted = [
        lax.pad(filters, zero, [(0, 0, 0), (t, block - 1 - t, 0), (0, 0, 0), (0, 0, 0)])
        for t in range(block)
    ]
    top = convolve(
        # Split, then merged: JAX follows a divided batch through either, not both.
        padded.reshape(N, H, blocks, block, C).reshape(N, H, blocks, block * C),
        jnp.stack(shifted, axis=3).reshape(kernel_h, 2, block * C, block * K),
        Windows((1, 1), (pad[0], (0, 0)), (1, 1)),
    )
    rows = top.shape[1]
    top = top.reshape(N, rows, blocks - 1, block, K)
    top = top.reshape(N, rows, (blocks - 1) * block, K)[:, :, :out]
    return top.transpose(0, 3, 1, 2)


def _overlap_add(
    top_diff: jax.Array, weight: jax.Array, shape: Sequence[int], pad: Pads
) -> jax.Array:
    """Computes the gradient of the bottom: each window's as a product, then their sum.

    As a convolution it would run over top_diff with a wide border of zeros.
    """
    N, _, H, W = shape
    out_h, out_w = top_diff.shape[2:]
    _, C, kernel_h, kernel_w = weight.shape
    (top, _), (left, _) = pad
    zero = jnp.zeros((), top_diff.dtype)
    windows = lax.dot_general(
        top_diff.transpose(0, 2, 3, 1),
        weight.transpose(3, 2, 1, 0),
        (((3,), (3,)), ((), ())),
    )
    # Column x gets element j of window x - j, for all j. In a row of all elements of
    # all windows these lie kernel_w - 1 apart, and those of column x + 1 start kernel_w
    # later: a window of sums.
    edge = (kernel_w - 1) ** 2
    columns = lax.reduce_window(
        windows.reshape(N, out_h, out_w * kernel_w, kernel_h, C),
        np.float32(0),
        lax.add,
        (1, 1, kernel_w, 1, 1),
        (1, 1, kernel_w, 1, 1),
        ((0, 0), (0, 0), (edge, edge), (0, 0), (0, 0)),
        window_dilation=(1, 1, max(kernel_w - 1, 1), 1, 1),
    )
    none = (0, 0, 0)
    total = jnp.zeros((), top_diff.dtype)
    for i in range(kernel_h):
        edges = (i, kernel_h - 1 - i, 0)
        total += lax.pad(columns[:, :, :, i], zero, [none, edges, none, none])
    return total[:, top : top + H, left : left + W].transpose(0, 3, 1, 2)
