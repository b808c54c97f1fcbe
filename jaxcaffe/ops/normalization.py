"""Normalisation of channels by the statistics of the batch, with its gradient.

Follows caffe/src/caffe/layers/batch_norm_layer.cpp and scale_layer.cpp.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxcaffe.ops.plain import is_plain

_Tops = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
_Saved = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def batch_normalize(
    bottom: jax.Array, scale: jax.Array, bias: jax.Array, eps: float
) -> _Tops:
    """Makes each channel of mean 0 and variance 1, then scales and shifts it.

    normal = (bottom - mean) / sqrt(variance + eps), top = normal * scale + bias.

    For the gradient only the bottom is kept, where autodiff would keep three arrays of
    its size and read them twice as often:
    bottom_diff = scale / sqrt(variance + eps) * (top_diff - mean(top_diff)
    - normal * mean(top_diff * normal)), the means taken per channel.

    Args:
      bottom: (N, C, *size) float32.
      scale: (C,) float32.
      bias: (C,) float32.
      eps: added to the variance.

    Returns:
      top and normal, of the bottom's shape; mean and variance, (C,) float32, the
      variance biased. A gradient passes through top alone.

    Source: caffe/src/caffe/layers/batch_norm_layer.cpp, Forward_cpu and Backward_cpu,
    and scale_layer.cpp, likewise. Differs: none.
    """
    form = batch_normalize_plain if is_plain() else _batch_normalize
    return form(bottom, scale, bias, eps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _batch_normalize(
    bottom: jax.Array, scale: jax.Array, bias: jax.Array, eps: float
) -> _Tops:
    return _compute(bottom, scale, bias, eps)


def _compute(bottom: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> _Tops:
    mean = _mean(bottom)
    # The distance from the mean is written in three ways, here and in the gradient,
    # lest the compiler take them for one. What several read is written to memory and
    # read again, which takes as long as a sum; what one reads is computed within it.
    variance = _mean((bottom + _spread(-mean, bottom)) ** 2)
    inverse = lax.rsqrt(variance + eps)
    normal = (bottom - _spread(mean, bottom)) * _spread(inverse, bottom)
    top = normal * _spread(scale, bottom) + _spread(bias, bottom)
    return top, normal, mean, variance


def batch_normalize_plain(
    bottom: jax.Array, scale: jax.Array, bias: jax.Array, eps: float
) -> _Tops:
    """Does as `batch_normalize`, with the gradient that autodiff derives."""
    axes = (0, *range(2, bottom.ndim))
    mean, variance = bottom.mean(axis=axes), bottom.var(axis=axes)
    normal = (bottom - _spread(mean, bottom)) / jnp.sqrt(
        _spread(variance, bottom) + eps
    )
    top = normal * _spread(scale, bottom) + _spread(bias, bottom)
    normal, mean, variance = lax.stop_gradient((normal, mean, variance))
    return top, normal, mean, variance


def _forward(
    bottom: jax.Array, scale: jax.Array, bias: jax.Array, eps: float
) -> tuple[_Tops, _Saved]:
    # Not `_batch_normalize`, whose mean and variance have no gradient: a second one
    # needs theirs.
    tops = _compute(bottom, scale, bias, eps)
    _, _, mean, variance = tops
    return tops, (bottom, scale, mean, variance)


def _backward(
    eps: float, saved: _Saved, diffs: _Tops
) -> tuple[jax.Array, jax.Array, jax.Array]:
    bottom, scale, mean, variance = saved
    diff = diffs[0]
    inverse = lax.rsqrt(variance + eps)
    bias_diff = _sum(diff)
    half = bottom * 0.5 - _spread(mean * 0.5, bottom)  # exactly half the distance
    scale_diff = 2 * inverse * _sum(half * diff)
    # The gradient of the bottom is diff * a + bottom * b + c.
    count = diff.size // mean.size
    a = scale * inverse
    b = -a * inverse * scale_diff / count
    c = -a * bias_diff / count - b * mean
    bottom_diff = diff * _spread(a, bottom) + bottom * _spread(b, bottom)
    return bottom_diff + _spread(c, bottom), scale_diff, bias_diff


_batch_normalize.defvjp(_forward, _backward)


def _mean(x: jax.Array) -> jax.Array:
    """Returns the mean of each channel."""
    return _sum(x) / (math.prod(x.shape) // x.shape[1])


def _sum(x: jax.Array) -> jax.Array:
    """Returns the sum of each channel."""
    return x.sum(axis=(0, *range(2, x.ndim)))


def _spread(channels: jax.Array, x: jax.Array) -> jax.Array:
    """Shapes (C,) so that it is broadcast over x."""
    return channels.reshape(1, -1, *[1] * (x.ndim - 2))
