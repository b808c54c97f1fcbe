"""Element by element arithmetic on one or several bottoms of one shape.

Follows caffe/src/caffe/layers/eltwise_layer.cpp, power_layer.cpp, exp_layer.cpp and
log_layer.cpp.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcaffe.errors import LayerError, plural
from jaxcaffe.layers.checks import check_alike
from jaxcaffe.layers.registry import register
from jaxcaffe.ops.materialize import materialize
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Shape


@register("Eltwise", bottoms=(2, None), tops=1)
class Eltwise(nnx.Module):
    """Multiplies, adds or maximises its bottoms.

    PROD: top = bottom_0 * bottom_1 * ...
    SUM: top = coeff_0 * bottom_0 + coeff_1 * bottom_1 + ..., coeff 1 unless given.
    MAX: top = the largest; of equal values bottom 1 comes before bottom 0 and both
    before the others, and the winner alone gets the gradient.

    Args of the call:
      bottoms: two or more float32 arrays of one shape.

    Returns:
      float32, the same shape.

    Raises:
      LayerError: shapes differ; coeff with PROD, or not one per bottom.

    Source: caffe/src/caffe/layers/eltwise_layer.cpp. Differs: the gradient of PROD is
    always the product of the other bottoms, which Caffe computes with
    stable_prod_grad only; its other way, top / bottom, gives NaN where a bottom is 0.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.eltwise_param
        count = len(bottom_shapes)
        if param.coeff and param.operation == caffe_pb2.EltwiseParameter.PROD:
            raise LayerError("coeff is set for operation PROD", "coeff with SUM")
        if param.coeff and len(param.coeff) != count:
            raise LayerError(
                f"{len(param.coeff)} coeff for {plural(count, 'bottom')}",
                f"none, or {count}: one per bottom",
            )
        check_alike(bottom_shapes)
        self.operation = param.operation
        self.coeff = tuple(param.coeff) or (1.0,) * count

    def __call__(self, *bottoms: jax.Array) -> jax.Array:
        """Applies the layer to its bottoms; see the class."""
        if self.operation == caffe_pb2.EltwiseParameter.PROD:
            return functools.reduce(operator.mul, bottoms)
        if self.operation == caffe_pb2.EltwiseParameter.SUM:
            terms = [
                b if coeff == 1 else coeff * b
                for coeff, b in zip(self.coeff, bottoms, strict=True)
            ]
            return materialize(functools.reduce(operator.add, terms))
        first, second, *others = bottoms
        # `where`, not `maximum`, which would halve the gradient between equal values.
        top = jnp.where(first > second, first, second)
        for other in others:
            top = jnp.where(other > top, other, top)
        return top


@register("Power", bottoms=1, tops=1)
class Power(nnx.Module):
    """Computes top = (shift + scale * bottom) ^ power.

    With power or scale 0 the top is a constant and the gradient 0.

    Args of the call:
      bottom: float32, any shape.

    Returns:
      float32, the same shape.

    Source: caffe/src/caffe/layers/power_layer.cpp. Differs: the gradient is
    power * scale * (shift + scale * bottom) ^ (power - 1) also where the base is 0;
    Caffe divides top by base there and gives NaN.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.power_param
        self.power, self.scale, self.shift = param.power, param.scale, param.shift

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Applies the layer to one bottom; see the class."""
        if self.power == 0 or self.scale == 0:
            # Cut off from the bottom, so that a non-finite one cannot reach the top.
            return _raise_to(jnp.full_like(bottom, self.shift), self.power)
        return _raise_to(self.shift + self.scale * bottom, self.power)


@register("Exp", bottoms=1, tops=1)
class Exp(nnx.Module):
    """Computes top = base ^ (shift + scale * bottom); base -1 stands for e.

    Args of the call:
      bottom: float32, any shape.

    Returns:
      float32, the same shape.

    Raises:
      LayerError: base is neither above 0 nor -1.

    Source: caffe/src/caffe/layers/exp_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.exp_param
        log_base = _log_base(param.base)
        self.inner = log_base * param.scale
        self.outer = math.exp(log_base * param.shift)

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Applies the layer to one bottom; see the class."""
        return self.outer * jnp.exp(self.inner * bottom)


@register("Log", bottoms=1, tops=1)
class Log(nnx.Module):
    """Computes top = log of (shift + scale * bottom) to a base; base -1 stands for e.

    Args of the call:
      bottom: float32, any shape.

    Returns:
      float32, the same shape.

    Raises:
      LayerError: base is 1, or neither above 0 nor -1.

    Source: caffe/src/caffe/layers/log_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.log_param
        log_base = _log_base(param.base)
        if log_base == 0:
            raise LayerError("base is 1, to which nothing has a logarithm", _BASES)
        self.factor = 1 / log_base
        self.scale, self.shift = param.scale, param.shift

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Applies the layer to one bottom; see the class."""
        return self.factor * jnp.log(self.shift + self.scale * bottom)


_BASES = "a base above 0, or -1 for e"


def _log_base(base: float) -> float:
    """Returns the natural logarithm of a base, 1 for base -1."""
    if base == -1:
        return 1.0
    if not 0 < base < math.inf:
        raise LayerError(f"base is {base:g}", _BASES)
    return math.log(base)


def _raise_to(base: jax.Array, power: float) -> jax.Array:
    # Whole exponents by multiplication: exact, and right for negative bases anywhere.
    if power.is_integer() and abs(power) <= _LARGEST_MULTIPLIED:
        return jax.lax.integer_pow(base, int(power))
    return jnp.power(base, power)


# integer_pow unrolls the exponent; beyond a few squarings `power` is no slower.
_LARGEST_MULTIPLIED = 64
