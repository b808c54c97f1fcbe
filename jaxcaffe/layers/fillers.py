"""Initial values of learned blobs, as the filler messages of a net ask for them.

Follows caffe/include/caffe/filler.hpp.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxcaffe.errors import LayerError, nearest
from jaxcaffe.proto import caffe_pb2, dialects
from jaxcaffe.spec import Shape


def fill(filler: caffe_pb2.FillerParameter, key: jax.Array, shape: Shape) -> jax.Array:
    """Makes an array as a filler describes it.

    n below is count / shape[0] (FAN_IN), count / shape[1] (FAN_OUT; count itself if
    there is one axis only) or their mean (AVERAGE), as variance_norm says.

      constant           value
      uniform            U[min, max)
      gaussian           N(mean, std^2); with sparse, each element is kept with
                         probability sparse / shape[0] and is 0 otherwise
      positive_unitball  U[0, 1), divided by the sum over all axes but the first
      xavier             U[-sqrt(3/n), sqrt(3/n))
      msra               N(0, 2/n)
      bilinear           (1 - |x/f - c|)(1 - |y/f - c|) with f = ceil(W/2),
                         c = (W - 1)/(2f), the same for every plane of a 4-D blob

    Args:
      filler: type and settings.
      key: JAX random key; constant and bilinear do not use it.
      shape: of the array to make; every axis 1 or longer.

    Returns:
      float32 array of that shape.

    Raises:
      LayerError: unknown type, with its fork if it is from one; a setting out of
        range; a shape that the type cannot fill.

    Source: caffe/include/caffe/filler.hpp, GetFiller and the classes above it.
    Differs: random numbers come from JAX's generator, so draws differ while
    distributions agree.
    """
    make = _FILLERS.get(filler.type)
    if make is None:
        raise LayerError(*_unknown_type(filler.type))
    if min(shape, default=1) < 1:
        raise LayerError(
            f"filler {filler.type} cannot fill an empty blob of shape {shape}",
            "lengths from 1 up",
        )
    if filler.sparse != -1 and filler.type != "gaussian":
        raise LayerError(
            f"filler {filler.type} does not take sparse ({filler.sparse})",
            "sparse with type gaussian only",
        )
    return make(filler, key, shape)


def _unknown_type(type_: str) -> tuple[str, str]:
    forks = dialects.filler_type_forks(type_)
    if not forks:
        return f'filler type "{type_}" is unknown', nearest(type_, _FILLERS)
    problem = f'Caffe 1.0 has no filler type "{type_}"; {dialects.tell_forks(forks)}'
    return problem, ", ".join(_FILLERS)


def _constant(
    filler: caffe_pb2.FillerParameter, key: jax.Array, shape: Shape
) -> jax.Array:
    del key
    return jnp.full(shape, filler.value, jnp.float32)


def _uniform(
    filler: caffe_pb2.FillerParameter, key: jax.Array, shape: Shape
) -> jax.Array:
    if filler.min > filler.max:
        raise LayerError(
            f"filler uniform has min {filler.min:g} above max {filler.max:g}",
            "min at most max",
        )
    return _draw_uniform(key, shape, filler.min, filler.max)


def _gaussian(
    filler: caffe_pb2.FillerParameter, key: jax.Array, shape: Shape
) -> jax.Array:
    if not filler.std > 0:
        raise LayerError(f"filler gaussian has std {filler.std:g}", "std above 0")
    if filler.sparse < -1:
        raise LayerError(
            f"filler gaussian has sparse {filler.sparse}",
            "-1 (dense), or the mean number of non-zero weights",
        )
    value_key, mask_key = jax.random.split(key)
    values = _draw_normal(value_key, shape, filler.mean, filler.std)
    if filler.sparse == -1:
        return values
    num_outputs = _first_axis(filler, shape)
    if filler.sparse > num_outputs:
        raise LayerError(
            f"filler gaussian has sparse {filler.sparse} for {num_outputs} outputs",
            f"-1 (dense) or 0 to {num_outputs}",
        )
    kept = _draw_uniform(mask_key, shape, 0, 1) < filler.sparse / num_outputs
    return jnp.where(kept, values, jnp.float32(0))


def _positive_unitball(
    filler: caffe_pb2.FillerParameter, key: jax.Array, shape: Shape
) -> jax.Array:
    rows = jax.random.uniform(key, (_first_axis(filler, shape), _fan_in(shape)))
    return (rows / rows.sum(axis=1, keepdims=True)).reshape(shape)


def _xavier(
    filler: caffe_pb2.FillerParameter, key: jax.Array, shape: Shape
) -> jax.Array:
    scale = math.sqrt(3 / _fan(filler, shape))
    return _draw_uniform(key, shape, -scale, scale)


def _msra(filler: caffe_pb2.FillerParameter, key: jax.Array, shape: Shape) -> jax.Array:
    std = math.sqrt(2 / _fan(filler, shape))
    return _draw_normal(key, shape, std=std)


def _bilinear(
    filler: caffe_pb2.FillerParameter, key: jax.Array, shape: Shape
) -> jax.Array:
    del filler, key
    if len(shape) != 4 or shape[2] != shape[3]:
        raise LayerError(
            f"filler bilinear cannot fill a blob of shape {shape}",
            "4 axes with a square kernel, such as (8, 1, 4, 4)",
        )
    width = shape[3]
    factor = math.ceil(width / 2)
    centre = (width - 1) / (2 * factor)
    line = 1 - np.abs(np.arange(width) / factor - centre)
    return jnp.broadcast_to(np.outer(line, line).astype(np.float32), shape)


_BLOCK = 1 << 20
"""Most values that are drawn at once, where their number can be divided."""


def _draw_uniform(key: jax.Array, shape: Shape, low: float, high: float) -> jax.Array:
    def draw(part: jax.Array, count: int) -> jax.Array:
        return jax.random.uniform(part, (count,), jnp.float32, low, high)

    return _draw(draw, key, shape)


def _draw_normal(
    key: jax.Array, shape: Shape, mean: float = 0.0, std: float = 1.0
) -> jax.Array:
    def draw(part: jax.Array, count: int) -> jax.Array:
        return mean + std * jax.random.normal(part, (count,), jnp.float32)

    return _draw(draw, key, shape)


def _draw(
    draw: Callable[[jax.Array, int], jax.Array], key: jax.Array, shape: Shape
) -> jax.Array:
    """Returns what `draw(key, count)` gives, in the wanted shape.

    In a row: XLA takes seconds to compile random numbers with several short axes for a
    CPU, and a fraction of one for the very same numbers in a row. Large blobs block by
    block: all at once take four times their size of temporary memory, which would be
    the most that a net's whole life takes.
    """
    count = math.prod(shape)
    blocks = _count_blocks(count)
    if blocks == 1:
        return draw(key, count).reshape(shape)
    keys = jax.random.split(key, blocks)
    return jax.lax.map(lambda part: draw(part, count // blocks), keys).reshape(shape)


def _count_blocks(count: int) -> int:
    """Returns how many equal blocks `count` values are drawn in."""
    fewest = -(-count // _BLOCK)
    for blocks in range(fewest, 4 * fewest + 1):
        if count % blocks == 0:
            return blocks
    return 1


def _fan(filler: caffe_pb2.FillerParameter, shape: Shape) -> float:
    _first_axis(filler, shape)
    fan_in = _fan_in(shape)
    fan_out = math.prod(shape) // shape[1] if len(shape) > 1 else math.prod(shape)
    if filler.variance_norm == caffe_pb2.FillerParameter.AVERAGE:
        return (fan_in + fan_out) / 2
    if filler.variance_norm == caffe_pb2.FillerParameter.FAN_OUT:
        return fan_out
    return fan_in


def _fan_in(shape: Shape) -> int:
    return math.prod(shape[1:])


def _first_axis(filler: caffe_pb2.FillerParameter, shape: Shape) -> int:
    if not shape:
        raise LayerError(
            f"filler {filler.type} cannot fill a blob without axes",
            "at least one axis, or a constant, uniform or dense gaussian filler",
        )
    return shape[0]


_FILLERS = {
    "constant": _constant,
    "uniform": _uniform,
    "gaussian": _gaussian,
    "positive_unitball": _positive_unitball,
    "xavier": _xavier,
    "msra": _msra,
    "bilinear": _bilinear,
}
