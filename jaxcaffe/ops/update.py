"""What keeps an update of all parameters from copying them.

Follows SGDSolver::ApplyUpdate of caffe/src/caffe/solvers/sgd_solver.cpp, which works in
place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

_Tree = TypeVar("_Tree")


def settle(history: _Tree) -> _Tree:
    """Has a new history written before the update is computed from it.

    On the CPU, XLA would else compute it twice, once to be stored and once within the
    update. Each of the two then reads what the other overwrites, so that it copies all
    parameters and all of their history first: with CaffeNet half of the time. GPUs and
    TPUs write both at once.

    Args:
      history: arrays.

    Returns:
      The same.
    """
    return lax.platform_dependent(
        history, cpu=lax.optimization_barrier, default=lambda history: history
    )


def update_if(
    good: jax.Array,
    update: Callable[..., tuple[_Tree, Any]],
    old: _Tree,
    *operands: Any,
) -> tuple[_Tree, Any]:
    """Returns update(old, *operands) if `good`, else what leaves `old` as it is.

    The CPU branches, which works in place; GPUs and TPUs, whose host would have to wait
    for a branch, choose element by element.

    Args:
      good: () bool.
      update: (old, *operands) -> (new, extras), new like old.
      old: arrays.
      *operands: more arrays.

    Returns:
      new and extras, or old and, of the extras' shapes, zeros or anything.
    """

    def branch(good: jax.Array, old: _Tree, *operands: Any) -> tuple[_Tree, Any]:
        def keep(old: _Tree, *operands: Any) -> tuple[_Tree, Any]:
            extras = jax.eval_shape(update, old, *operands)[1]
            return old, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), extras)

        return lax.cond(good, update, keep, old, *operands)

    def select(good: jax.Array, old: _Tree, *operands: Any) -> tuple[_Tree, Any]:
        new, extras = update(old, *operands)
        return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old), extras

    return lax.platform_dependent(good, old, *operands, cpu=branch, default=select)
