"""The update rules of Caffe's six solvers, one function each.

Follows ComputeUpdateValue of the solvers in caffe/src/caffe/solvers.

Symbols: g the gradient after clipping, division and decay, w the parameter, r the
learning rate of this iteration times the parameter's lr_mult, h (and k) what the rule
remembers of the parameter, zero at the start. All arithmetic is float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcaffe.ops.update import settle

Pair = tuple[jax.Array, jax.Array]


class Rule(NamedTuple):
    """One solver type: how a parameter's gradient becomes its update."""

    init: Callable[[jax.Array], Any]
    """Parameter -> its first history: one array of its shape, or a tuple of such."""

    update: Callable[[jax.Array, Any, jax.Array, jax.Array], tuple[jax.Array, Any]]
    """(gradient, history, r () float32, count () int32) -> (what w loses, history)."""


def sgd(momentum: float) -> Rule:
    """Steepest descent with momentum, the rate inside the history.

    h = m * h + r * g
    w = w - h

    A rate that drops therefore leaves the momentum gathered so far at its old size.

    Args:
      momentum: m; 0 for none.

    Returns:
      Rule whose history is one float32 array, shaped like the parameter.
    Source: caffe/src/caffe/solvers/sgd_solver.cpp, ComputeUpdateValue. Differs: none.
    """
    m = np.float32(momentum)

    def update(
        g: jax.Array, h: jax.Array, r: jax.Array, count: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        del count
        h = settle(m * h + r * g)
        return h, h

    return Rule(init=jnp.zeros_like, update=update)


def nesterov(momentum: float) -> Rule:
    """Momentum whose gradient is taken where the momentum leads.

    h' = m * h + r * g
    w = w - ((1 + m) * h' - m * h)

    Args:
      momentum: m.

    Returns:
      Rule whose history is one float32 array, shaped like the parameter.
    Source: caffe/src/caffe/solvers/nesterov_solver.cpp, ComputeUpdateValue. Differs:
      none.
    """
    m = np.float32(momentum)

    def update(
        g: jax.Array, h: jax.Array, r: jax.Array, count: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        del count
        new = m * h + r * g
        return (np.float32(1) + m) * new - m * h, new

    return Rule(init=jnp.zeros_like, update=update)


def adagrad(delta: float) -> Rule:
    """Steps that shrink as the squared gradients of a parameter add up.

    h = h + g^2
    w = w - r * g / (sqrt(h) + delta)

    Args:
      delta: keeps the divisor from 0.

    Returns:
      Rule whose history is one float32 array, shaped like the parameter.
    Source: caffe/src/caffe/solvers/adagrad_solver.cpp, ComputeUpdateValue. Differs:
      none.
    """

    def update(
        g: jax.Array, h: jax.Array, r: jax.Array, count: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        del count
        h = settle(h + jnp.square(g))
        return r * (g / (jnp.sqrt(h) + np.float32(delta))), h

    return Rule(init=jnp.zeros_like, update=update)


def rmsprop(rms_decay: float, delta: float) -> Rule:
    """Steps divided by a running mean of the gradients' size.

    h = d * h + (1 - d) * g^2
    w = w - r * g / (sqrt(h) + delta)

    Args:
      rms_decay: d, the share of the mean that is kept.
      delta: keeps the divisor from 0.

    Returns:
      Rule whose history is one float32 array, shaped like the parameter.
    Source: caffe/src/caffe/solvers/rmsprop_solver.cpp, ComputeUpdateValue. Differs:
      none.
    """
    d = np.float32(rms_decay)

    def update(
        g: jax.Array, h: jax.Array, r: jax.Array, count: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        del count
        h = settle((np.float32(1) - d) * jnp.square(g) + d * h)
        return r * (g / (jnp.sqrt(h) + np.float32(delta))), h

    return Rule(init=jnp.zeros_like, update=update)


def adadelta(momentum: float, delta: float) -> Rule:
    """Steps as large as the last ones were, measured against the gradients.

    h = m * h + (1 - m) * g^2
    u = g * sqrt((k + delta) / (h + delta))
    k = m * k + (1 - m) * u^2
    w = w - r * u

    Args:
      momentum: m, the share of the running means that is kept.
      delta: keeps the quotient finite, and the first steps from 0.

    Returns:
      Rule whose history is (h, k), float32, each shaped like the parameter.
    Source: caffe/src/caffe/solvers/adadelta_solver.cpp, ComputeUpdateValue. Differs:
      none.
    """
    m = np.float32(momentum)
    small = np.float32(delta)

    def update(
        g: jax.Array, history: Pair, r: jax.Array, count: jax.Array
    ) -> tuple[jax.Array, Pair]:
        del count
        h, k = history
        h = (np.float32(1) - m) * jnp.square(g) + m * h
        u = g * jnp.sqrt((small + k) / (small + h))
        k = (np.float32(1) - m) * jnp.square(u) + m * k
        return r * u, (h, k)

    return Rule(init=_two_zeros, update=update)


def adam(momentum: float, momentum2: float, delta: float) -> Rule:
    """Momentum divided by a running mean of the gradients' size, both unbiased.

    h = b1 * h + (1 - b1) * g
    k = b2 * k + (1 - b2) * g^2
    c = sqrt(1 - b2^t) / (1 - b1^t), with t = 1 at the first update
    w = w - r * c * h / (sqrt(k) + delta)

    Args:
      momentum: b1.
      momentum2: b2.
      delta: keeps the divisor from 0; added after the root, outside the correction c.

    Returns:
      Rule whose history is (h, k), float32, each shaped like the parameter.
    Source: caffe/src/caffe/solvers/adam_solver.cpp, ComputeUpdateValue. Differs: none.
    """
    b1, b2 = np.float32(momentum), np.float32(momentum2)

    def update(
        g: jax.Array, history: Pair, r: jax.Array, count: jax.Array
    ) -> tuple[jax.Array, Pair]:
        h, k = history
        h = settle((np.float32(1) - b1) * g + b1 * h)
        k = settle((np.float32(1) - b2) * jnp.square(g) + b2 * k)
        t = (count + 1).astype(jnp.float32)
        c = jnp.sqrt(_one_minus_power(b2, t)) / _one_minus_power(b1, t)
        return r * c * (h / (jnp.sqrt(k) + np.float32(delta))), (h, k)

    return Rule(init=_two_zeros, update=update)


def _two_zeros(w: jax.Array) -> Pair:
    return jnp.zeros_like(w), jnp.zeros_like(w)


def _one_minus_power(base: np.float32, exponent: jax.Array) -> jax.Array:
    # Caffe works this out in double: in float32 1 - 0.999^t would lose four digits.
    log = math.log(base) if base > 0 else -math.inf
    return -jnp.expm1(exponent * np.float32(log))
