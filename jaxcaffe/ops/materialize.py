"""Says where an array shall be written to memory for its gradient, on CPUs.

Follows no file of Caffe's, where every top is.
"""

from __future__ import annotations

import jax
from jax import lax

from jaxcaffe.ops.plain import is_plain


def materialize(x: jax.Array) -> jax.Array:
    """Returns an array as it is; if a gradient is taken, it is computed only once.

    XLA merges cheap operations into whatever reads them, into each reader by itself.
    In a chain of sums, as of ResNet's blocks, the gradient of each sum then computes
    all that came before it, which took a tenth of the step. cpu.tune_cpu has XLA heed
    this; without it, and on other devices, nothing happens.

    Args:
      x: any array.
    """
    return x if is_plain() else _materialize(x)


@jax.custom_vjp
def _materialize(x: jax.Array) -> jax.Array:
    return x


def _forward(x: jax.Array) -> tuple[jax.Array, None]:
    once = lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)
    return once, None


def _backward(_: None, diff: jax.Array) -> tuple[jax.Array]:
    return (diff,)


_materialize.defvjp(_forward, _backward)
