"""Convolution with channels innermost, which XLA computes fast on CPUs, loops included.

Follows no file of Caffe's. XLA's CPU client hands a convolution to Eigen if its axes
lie in one certain order, and brings others into that order first; but not inside a
loop, such as the one over the batches of an iteration: there it computes them element
by element, 40 times slower. So the gradients, too, are written in that order here.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

Pairs = tuple[tuple[int, int], ...]


class Windows(NamedTuple):
    """Where windows lie, for each spatial axis. Hashable."""

    stride: tuple[int, ...]
    pad: Pairs  # zeros before and after; fewer than none cuts off
    dilation: tuple[int, ...]  # of the filters
    spread: tuple[int, ...] | None = None  # pixels of the bottom are so far apart


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(pixels: jax.Array, filters: jax.Array, windows: Windows) -> jax.Array:
    """Correlates images with filters.

    Args:
      pixels: (N, *size, C) float32.
      filters: (*kernel, C, K) float32.
      windows: where the filters are applied.

    Returns:
      (N, *out, K) float32.
    """
    return _correlate(pixels, filters, windows)


def _correlate(
    pixels: jax.Array, filters: jax.Array, windows: Windows, **options: Any
) -> jax.Array:
    last = pixels.ndim - 1
    axes = tuple(range(1, last))
    return lax.conv_general_dilated(
        pixels,
        filters,
        windows.stride,
        windows.pad,
        lhs_dilation=windows.spread,
        rhs_dilation=windows.dilation,
        dimension_numbers=lax.ConvDimensionNumbers(
            lhs_spec=(0, last, *axes),
            rhs_spec=(last, last - 1, *range(last - 1)),
            out_spec=(0, last, *axes),
        ),
        **options,
    )


def _forward(
    pixels: jax.Array, filters: jax.Array, windows: Windows
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolve(pixels, filters, windows), (pixels, filters)


def _backward(
    windows: Windows, kept: tuple[jax.Array, jax.Array], top_diff: jax.Array
) -> tuple[jax.Array, jax.Array]:
    pixels, filters = kept
    return (
        _pixels_diff(pixels, filters, top_diff, windows),
        _filters_diff(pixels, filters, top_diff, windows),
    )


convolve.defvjp(_forward, _backward)


def _pixels_diff(
    pixels: jax.Array, filters: jax.Array, top_diff: jax.Array, windows: Windows
) -> jax.Array:
    """Convolves the top's gradient, spread by the stride, with the filters turned."""
    axes = tuple(range(filters.ndim - 2))
    turned = lax.rev(filters, axes).swapaxes(-1, -2)
    pads = []
    for axis in axes:
        stride, (before, _), dilation, size, out = _along(
            axis, windows, pixels, top_diff
        )
        reach = dilation * (filters.shape[axis] - 1)
        last = (out - 1) * stride  # where the last window begins
        pads.append((reach - before, size + before - 1 - last))
    step = windows.spread or (1,) * len(axes)
    return _correlate(
        top_diff,
        turned,
        Windows(step, tuple(pads), windows.dilation, windows.stride),
    )


def _filters_diff(
    pixels: jax.Array, filters: jax.Array, top_diff: jax.Array, windows: Windows
) -> jax.Array:
    """Correlates channels of the bottom with those of the top, all images at once."""
    pads = []
    for axis in range(filters.ndim - 2):
        stride, (before, _), dilation, size, out = _along(
            axis, windows, pixels, top_diff
        )
        needed = (out - 1) * stride + dilation * (filters.shape[axis] - 1) + 1
        pads.append((before, needed - size - before))
    last = filters.ndim - 1
    order = (last - 1, *range(last - 1), last)
    diff = _correlate(
        pixels.swapaxes(0, -1),
        _rotate(top_diff),
        Windows(windows.dilation, tuple(pads), windows.stride, windows.spread),
        **sum_like(filters, order),
    )
    return _rotate(diff)


def sum_like(array: jax.Array, axes: Sequence[int]) -> dict[str, Any]:
    """Returns options of a product that sums over images: where its result shall lie.

    JAX asks for that where images are divided over devices by their types.

    Args:
      array: any shape; the result shall be divided, or whole, as it is.
      axes: those of the array, in the order in which the result has them.
    """
    sharding = jax.typeof(array).sharding
    if sharding.mesh.empty:
        return {}
    spec = PartitionSpec(*[sharding.spec[axis] for axis in axes])
    return {"out_sharding": NamedSharding(sharding.mesh, spec)}


def _along(
    axis: int, windows: Windows, pixels: jax.Array, top_diff: jax.Array
) -> tuple[int, tuple[int, int], int, int, int]:
    """Returns stride, pad, dilation, spread size of the bottom, size of the top."""
    spread = windows.spread[axis] if windows.spread else 1
    return (
        windows.stride[axis],
        windows.pad[axis],
        windows.dilation[axis],
        (pixels.shape[axis + 1] - 1) * spread + 1,
        top_diff.shape[axis + 1],
    )


def _rotate(x: jax.Array) -> jax.Array:
    """Moves the first axis before the last: images or channels in, channels out."""
    return x.transpose(*range(1, x.ndim - 1), 0, x.ndim - 1)
