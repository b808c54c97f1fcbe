"""Convolution and its reverse, in the form that each platform runs fastest.

Follows caffe/src/caffe/layers/base_conv_layer.cpp and conv_layer.cpp.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcaffe.ops.channels_last import Windows, convolve, sum_like
from jaxcaffe.ops.convolution_cpu import convolution_cpu, find_forms
from jaxcaffe.ops.plain import is_plain


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
    of a single pixel matrix products. For images of few channels, and gradients of
    images much larger than the top, see convolution_cpu. Precision is
    jax.default_matmul_precision's.

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
    pads = tuple((before, after) for before, after in pad)
    settings = _Settings(tuple(stride), pads, tuple(dilation), group)
    if is_plain():
        return _plain(bottom, weight, settings)
    forms = find_forms(
        bottom.shape, weight.shape, stride=stride, pad=pads, dilation=dilation
    )
    if group == 1 and any(forms):
        on_cpu = ((stride[0], stride[1]), (pads[0], pads[1]), forms)
        return lax.platform_dependent(
            bottom,
            weight,
            cpu=lambda b, w: convolution_cpu(b, w, *on_cpu),
            default=lambda b, w: _convolution(b, w, settings),
        )
    return _convolution(bottom, weight, settings)


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


class _Settings(NamedTuple):
    """What `convolution` is told beside its arrays. Hashable."""

    stride: tuple[int, ...]
    pad: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    group: int


_Form = Callable[[jax.Array, jax.Array, _Settings], jax.Array]
_Diffs = tuple[jax.Array, jax.Array]
_Pull = Callable[[jax.Array, jax.Array, jax.Array, _Settings], _Diffs]


# The platform is chosen within the gradient too, so that nothing is kept from the
# forward pass but what went into it.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolution(
    bottom: jax.Array, weight: jax.Array, settings: _Settings
) -> jax.Array:
    form, _ = _choose(weight, settings)
    return lax.platform_dependent(
        bottom,
        weight,
        cpu=lambda b, w: form(b, w, settings),
        default=lambda b, w: _plain(b, w, settings),
    )


def _convolution_forward(
    bottom: jax.Array, weight: jax.Array, settings: _Settings
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolution(bottom, weight, settings), (bottom, weight)


def _convolution_backward(
    settings: _Settings, saved: tuple[jax.Array, jax.Array], top_diff: jax.Array
) -> _Diffs:
    _, pull = _choose(saved[1], settings)
    return lax.platform_dependent(
        *saved,
        top_diff,
        cpu=lambda b, w, d: pull(b, w, d, settings),
        default=lambda b, w, d: _pull(_plain)(b, w, d, settings),
    )


_convolution.defvjp(_convolution_forward, _convolution_backward)


def _choose(weight: jax.Array, settings: _Settings) -> tuple[_Form, _Pull]:
    """Returns the form that is fastest on the CPU, and its gradients."""
    taps = math.prod(weight.shape[2:])
    if settings.group == 1:
        if taps == 1 and not any(map(any, settings.pad)):
            return _pointwise, _pointwise_diffs
        return _channels_last, _pull(_channels_last)
    if weight.shape[1] == 1 and taps <= _MOST_TAPS:
        return _depthwise, _depthwise_diffs
    return _by_group, _pull(_by_group)


def _pull(form: _Form) -> _Pull:
    """Returns the gradients of a form, as they follow from what it does."""

    def pull(
        bottom: jax.Array, weight: jax.Array, top_diff: jax.Array, settings: _Settings
    ) -> _Diffs:
        return jax.vjp(lambda b, w: form(b, w, settings), bottom, weight)[1](top_diff)

    return pull


def _plain(bottom: jax.Array, weight: jax.Array, settings: _Settings) -> jax.Array:
    return convolution_plain(bottom, weight, **settings._asdict())


def _by_group(bottom: jax.Array, weight: jax.Array, settings: _Settings) -> jax.Array:
    """Convolves each group by itself."""
    bottoms = jnp.split(bottom, settings.group, axis=1)
    weights = jnp.split(weight, settings.group, axis=0)
    single = settings._replace(group=1)
    tops = [_channels_last(b, w, single) for b, w in zip(bottoms, weights, strict=True)]
    return jnp.concatenate(tops, axis=1)


def _channels_last(
    bottom: jax.Array, weight: jax.Array, settings: _Settings
) -> jax.Array:
    """Convolves one group in the order of axes that XLA's CPU wants."""
    filters = weight.transpose(*range(2, weight.ndim), 1, 0)
    windows = Windows(settings.stride, settings.pad, settings.dilation)
    top = convolve(jnp.moveaxis(bottom, 1, -1), filters, windows)
    return jnp.moveaxis(top, -1, 1)


# From this many pixels on, a product for each image beats one that needs its channels
# innermost: at 56 x 56 by 2 to 2.5 times, at 14 x 14 it loses by as much.
_MANY_PIXELS = 512


def _pointwise(bottom: jax.Array, weight: jax.Array, settings: _Settings) -> jax.Array:
    """Convolves with filters of one pixel: mixes the channels of each pixel."""
    bottom = _skip(bottom, settings)
    N, C = bottom.shape[:2]
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


# Up to so many filters, as a share of the pixels that a product for each image reads,
# their gradient is as fast image by image, and then summed.
_FEW_FILTERS = 0.08


def _pointwise_diffs(
    bottom: jax.Array, weight: jax.Array, top_diff: jax.Array, settings: _Settings
) -> _Diffs:
    """Returns the gradients of `_pointwise` by the bottom and by the filters."""
    bottom_diff, weight_diff = _pull(_pointwise)(bottom, weight, top_diff, settings)
    N, K = top_diff.shape[:2]
    C, size = weight.shape[1], math.prod(top_diff.shape[2:])
    if size >= _MANY_PIXELS and _FEW_FILTERS * size * (K + C) < K * C:
        pixels = _skip(bottom, settings).reshape(N, C, size)
        diffs = top_diff.reshape(N, K, size)
        weight_diff = lax.dot_general(
            diffs, pixels, (((0, 2), (0, 2)), ((), ())), **sum_like(weight, (0, 1))
        )
        weight_diff = weight_diff.reshape(weight.shape)
    return bottom_diff, weight_diff


def _skip(bottom: jax.Array, settings: _Settings) -> jax.Array:
    """Leaves out the pixels between windows of one pixel."""
    steps = (1, 1, *settings.stride)
    return lax.slice(bottom, (0,) * bottom.ndim, bottom.shape, steps)


# Beyond this many filter elements the sum over them no longer pays.
_MOST_TAPS = 64


def _depthwise(bottom: jax.Array, weight: jax.Array, settings: _Settings) -> jax.Array:
    """Convolves each channel with its own K / C filters, one filter element a time."""
    N, C = bottom.shape[:2]
    kernel = weight.shape[2:]
    filters = weight.reshape(C, -1, *kernel)
    stride, pad, dilation, _ = settings
    top: Any = 0.0
    for tap, window in _taps(bottom, kernel, stride, pad, dilation):
        top += window[:, :, None] * _factor(filters, tap)
    return top.reshape(N, weight.shape[0], *top.shape[3:])


def _depthwise_diffs(
    bottom: jax.Array, weight: jax.Array, top_diff: jax.Array, settings: _Settings
) -> _Diffs:
    """Returns the gradients of `_depthwise` by the bottom and by the filters.

    Left to autodiff, each filter element would keep its own copy of the bottom from
    the forward pass on: MobileNet spent half of its time and memory on that.
    """
    N, C = bottom.shape[:2]
    kernel = weight.shape[2:]
    diff = top_diff.reshape(N, C, -1, *top_diff.shape[2:])
    stride, pad, dilation, _ = settings

    # Convolves the top's gradient, set `stride` apart, with the filters turned round.
    turned = jnp.flip(weight.reshape(C, -1, *kernel), range(2, 2 + len(kernel)))
    edges = []
    for size, out, k, s, (before, _), d in zip(
        bottom.shape[2:], top_diff.shape[2:], kernel, stride, pad, dilation, strict=True
    ):
        first = d * (k - 1) - before
        edges.append((first, size + before - ((out - 1) * s + 1), s - 1))
    spread = lax.pad(top_diff, jnp.zeros((), diff.dtype), [(0, 0, 0)] * 2 + edges)
    spread_kernel = (kernel, [1] * len(kernel), [(0, 0)] * len(kernel), dilation)
    bottom_diff: Any = 0.0
    for tap, window in _taps(spread, *spread_kernel):
        window = window.reshape(N, C, -1, *bottom.shape[2:])
        bottom_diff += window * _factor(turned, tap)

    # All elements' sums in one pass; those over images apart, for their exactness.
    products = [
        window[:, :, None] * diff
        for _, window in _taps(bottom, kernel, stride, pad, dilation)
    ]
    sums = lax.reduce(
        products,
        [jnp.zeros((), diff.dtype)] * len(products),
        lambda a, b: [x + y for x, y in zip(a, b, strict=True)],
        range(3, diff.ndim),
    )
    weight_diff = jnp.stack([x.sum(axis=0) for x in sums], axis=-1)
    return bottom_diff.sum(axis=2), weight_diff.reshape(weight.shape)


def _factor(filters: jax.Array, tap: tuple[int, ...]) -> jax.Array:
    """Returns one element of all filters, shaped for (N, C, K / C, *size)."""
    factor = filters[(slice(None), slice(None), *tap)]
    return factor.reshape(1, *factor.shape, *[1] * len(tap))


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
