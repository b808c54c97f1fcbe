"""The stages between summed gradients and an update, one optax transform each.

Follows SGDSolver::ApplyUpdate of caffe/src/caffe/solvers/sgd_solver.cpp.

Symbols: g the gradient, w the parameter, h what the rule of the solver's type remembers
of it, r the learning rate of this iteration times the parameter's lr_mult.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcaffe.solver.rules import Rule


def forget_frozen(lr_mults: Any) -> optax.GradientTransformation:
    """Puts zero for the gradient of every parameter whose lr_mult is 0.

    g = 0 where lr_mult = 0, else g

    Args:
      lr_mults: tree like the parameters, a float for each.

    Returns:
      Stateless transform of a tree of float32 gradients, which may hold anything, None
      included, at the frozen ones; update needs params.
    Source: caffe/src/caffe/net.cpp, Init, which gives such parameters no gradient.
      Differs: with force_backward Caffe does.
    """

    def forget(grads: optax.Updates, params: optax.Params | None) -> optax.Updates:
        return jax.tree.map(
            lambda lr_mult, g, w: g if lr_mult else jnp.zeros_like(w),
            lr_mults,
            grads,
            params,
        )

    return optax.stateless(forget)


def clip_by_sum_norm(clip_gradients: float) -> optax.GradientTransformation:
    """Shortens the gradient of all parameters together to clip_gradients.

    n = sqrt(sum over all parameters of g^2)
    g = g * clip_gradients / n where n > clip_gradients, else g

    Args:
      clip_gradients: longest L2 norm that passes; negative for no limit.

    Returns:
      Stateless transform of a tree of float32 gradients, still summed over iter_size.
    Source: caffe/src/caffe/solvers/sgd_solver.cpp, ClipGradients. Differs: none.
    """
    if clip_gradients < 0:
        return optax.identity()
    limit = np.float32(clip_gradients)

    def clip(grads: optax.Updates, params: optax.Params | None) -> optax.Updates:
        del params
        l2norm_diff = sum_norm(grads)
        scale = jnp.where(l2norm_diff > limit, limit / l2norm_diff, np.float32(1))
        return jax.tree.map(lambda g: g * scale, grads)

    return optax.stateless(clip)


def sum_norm(grads: Any) -> jax.Array:
    """Returns the L2 norm of a tree of gradients taken together, () float32.

    n = sqrt(sum over all parameters of g^2)
    """
    leaves = jax.tree.leaves(grads)
    total = sum((jnp.sum(jnp.square(g)) for g in leaves), jnp.zeros((), jnp.float32))
    return jnp.sqrt(total)


def divide_by_iter_size(iter_size: int) -> optax.GradientTransformation:
    """Turns the sum over iter_size batches into their mean.

    g = g * (1 / iter_size)

    Args:
      iter_size: number of batches summed, >= 1.

    Returns:
      Stateless transform of a tree of float32 gradients.
    Source: caffe/src/caffe/solvers/sgd_solver.cpp, Normalize. Differs: none.
    """
    if iter_size == 1:
        return optax.identity()
    share = np.float32(1) / np.float32(iter_size)
    return optax.stateless(
        lambda grads, params: jax.tree.map(lambda g: g * share, grads)
    )


def add_l2_decay(weight_decay: float, decay_mults: Any) -> optax.GradientTransformation:
    """Adds the slope of half the squared weights.

    g = g + weight_decay * decay_mult * w

    Args:
      weight_decay: the solver's.
      decay_mults: tree like the parameters, a float for each.

    Returns:
      Stateless transform of a tree of float32 gradients; update needs params.
    Source: caffe/src/caffe/solvers/sgd_solver.cpp, Regularize. Differs: none.
    """
    return _add_decay(lambda w: w, weight_decay, decay_mults)


def add_l1_decay(weight_decay: float, decay_mults: Any) -> optax.GradientTransformation:
    """Adds the slope of the absolute weights.

    g = g + weight_decay * decay_mult * sign(w), with sign(0) = 0

    Args:
      weight_decay: the solver's.
      decay_mults: tree like the parameters, a float for each.

    Returns:
      Stateless transform of a tree of float32 gradients; update needs params.
    Source: caffe/src/caffe/solvers/sgd_solver.cpp, Regularize. Differs: none.
    """
    return _add_decay(jnp.sign, weight_decay, decay_mults)


class HistoryState(NamedTuple):
    """What an update rule remembers."""

    # () int32: updates made so far, Caffe's iter. It hides tuple.count, as in optax.
    count: jax.Array  # type: ignore[assignment]
    # Tree like the parameters, at each what Rule.init gives; or an optimizer's state.
    history: Any


def apply_rule(
    rule: Rule, schedule: optax.Schedule, lr_mults: Any
) -> optax.GradientTransformation:
    """Runs an update rule on every parameter and negates what it gives.

    r = schedule(count) * lr_mult
    u, h = rule(g, h, r, count)
    update = -u, or 0 where lr_mult = 0
    count = count + 1

    Args:
      rule: the solver type.
      schedule: () int32 count -> () float32 rate.
      lr_mults: tree like the parameters, a float for each.

    Returns:
      Transform of a tree of float32 gradients with a HistoryState.
    Source: caffe/src/caffe/solvers/sgd_solver.cpp, ApplyUpdate; Blob::Update.
      Differs: none.
    """
    mults = jax.tree.leaves(lr_mults)
    treedef: Any = jax.tree.structure(lr_mults)

    def init(params: optax.Params) -> HistoryState:
        return HistoryState(
            count=jnp.zeros((), jnp.int32), history=jax.tree.map(rule.init, params)
        )

    def update(
        grads: optax.Updates, state: HistoryState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, HistoryState]:
        del params
        rate = schedule(state.count)

        def update_one(lr_mult: float, g: jax.Array, h: Any) -> tuple[jax.Array, Any]:
            u, h = rule.update(g, h, rate * np.float32(lr_mult), state.count)
            # Not -u: of a gradient of 0 some rules make 0 / 0.
            return (-u if lr_mult else jnp.zeros_like(g)), h

        results = [
            update_one(*leaves)
            for leaves in zip(
                mults,
                treedef.flatten_up_to(grads),
                treedef.flatten_up_to(state.history),
                strict=True,
            )
        ]
        updates = treedef.unflatten([update for update, _ in results])
        history = treedef.unflatten([h for _, h in results])
        return updates, HistoryState(state.count + 1, history)

    return optax.GradientTransformation(init, update)


def count_updates(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Gives a transform of optax's the state that `apply_rule` has.

    update, history = optimizer(g, history, w)
    count = count + 1

    Args:
      optimizer: its updates are to be added, so it negates by itself.

    Returns:
      Transform of a tree of float32 gradients with a HistoryState.
    """

    def init(params: optax.Params) -> HistoryState:
        return HistoryState(jnp.zeros((), jnp.int32), optimizer.init(params))

    def update(
        grads: optax.Updates, state: HistoryState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, HistoryState]:
        updates, history = optimizer.update(grads, state.history, params)
        return updates, HistoryState(state.count + 1, history)

    return optax.GradientTransformation(init, update)


def _add_decay(
    slope: Callable[[jax.Array], jax.Array], weight_decay: float, decay_mults: Any
) -> optax.GradientTransformation:
    local_decays = jax.tree.map(
        lambda decay_mult: np.float32(weight_decay) * np.float32(decay_mult),
        decay_mults,
    )

    def add(local_decay: np.float32, g: jax.Array, w: jax.Array) -> jax.Array:
        # 0 * w is not 0 where w is infinite, and Caffe leaves it out too.
        return g + local_decay * slope(w) if local_decay else g

    return optax.stateless(
        lambda grads, params: jax.tree.map(add, local_decays, grads, params)
    )
