"""A solver file and the multipliers of a net's parameters become one optax transform.

Follows SGDSolver::ApplyUpdate and SolverRegistry (caffe/src/caffe/solvers/
sgd_solver.cpp, caffe/include/caffe/solver_factory.hpp).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcaffe.errors import PrototxtError, describe, nearest
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.solver.check import check_solver
from jaxcaffe.solver.rules import Rule, adadelta, adagrad, adam, nesterov, rmsprop, sgd
from jaxcaffe.solver.schedule import make_schedule
from jaxcaffe.solver.transform import (
    HistoryState,
    add_l1_decay,
    add_l2_decay,
    apply_rule,
    clip_by_sum_norm,
    divide_by_iter_size,
)

_RULES: dict[str, Callable[[caffe_pb2.SolverParameter], Rule]] = {
    "SGD": lambda solver: sgd(solver.momentum),
    "Nesterov": lambda solver: nesterov(solver.momentum),
    "AdaGrad": lambda solver: adagrad(solver.delta),
    "RMSProp": lambda solver: rmsprop(solver.rms_decay, solver.delta),
    "AdaDelta": lambda solver: adadelta(solver.momentum, solver.delta),
    "Adam": lambda solver: adam(solver.momentum, solver.momentum2, solver.delta),
}

_DECAYS: dict[str, Callable[[float, Any], optax.GradientTransformation]] = {
    "L2": add_l2_decay,
    "L1": add_l1_decay,
}


def build_tx(
    solver: caffe_pb2.SolverParameter,
    lr_mults: Any,
    decay_mults: Any,
    where: str = "",
    optimizer: optax.GradientTransformation | None = None,
) -> optax.GradientTransformation:
    """Returns the whole update of a solver, to be used with optax.apply_updates.

    In Caffe's order: clip the summed gradient, divide by iter_size, add the decay, run
    the rule of the solver's type with the rate of this iteration, negate. `optimizer`
    stands in for the last two.

    A parameter with lr_mult 0 is frozen: its gradient is not looked at and may be
    anything, None included; its update and its history are zero.

    Args:
      solver: gives type, lr_policy, momentum, weight_decay and so on.
      lr_mults: tree like the parameters, a float for each.
      decay_mults: tree like the parameters, a float for each.
      where: path of the solver file, for messages.
      optimizer: from optimizer.open_optimizer, for the same parameters; None for the
        solver's own type.

    Returns:
      Transform with `init(params) -> HistoryState` and
      `update(summed_grads, state, params) -> (updates, state)`: summed_grads a tree of
      float32 arrays like params, summed over iter_size batches; updates the same
      shapes, to be added. `state.history` is a tree like params, with what the rule
      remembers of each, one float32 array or two in a tuple; or the optimizer's state.

    Raises:
      PrototxtError: type, lr_policy or regularization_type unknown; lr_policy without
        what it needs; a number that `check_solver` refuses.
    Source: caffe/src/caffe/solvers/sgd_solver.cpp, ApplyUpdate. Differs: with
      force_backward Caffe also clips by the gradients of frozen parameters; where it
      decays a frozen parameter, the history of adaptive rules sees that, and no update.
    """
    check_solver(solver, where)
    decay = _find_decay(solver, decay_mults, where)

    treedef: Any = jax.tree.structure(lr_mults)
    is_learned = [lr_mult != 0 for lr_mult in jax.tree.leaves(lr_mults)]

    def pick(tree: Any) -> list[Any]:
        leaves = treedef.flatten_up_to(tree)
        return [leaf for leaf, keep in zip(leaves, is_learned, strict=True) if keep]

    def merge(learned: list[Any], frozen: Any) -> Any:
        rest = iter(learned)
        leaves = zip(treedef.flatten_up_to(frozen), is_learned, strict=True)
        return treedef.unflatten(
            [next(rest) if keep else leaf for leaf, keep in leaves]
        )

    prepare = optax.chain(
        clip_by_sum_norm(solver.clip_gradients),
        divide_by_iter_size(solver.iter_size),
        decay(solver.weight_decay, pick(decay_mults)),
    )

    def prepare_grads(summed_grads: Any, params: Any) -> list[Any]:
        learned = pick(params)
        grads, _ = prepare.update(pick(summed_grads), prepare.init(learned), learned)
        return grads

    if optimizer is not None:
        return _run_optimizer(
            optimizer,
            lambda summed_grads, params: merge(
                prepare_grads(summed_grads, params),
                jax.tree.map(jnp.zeros_like, params),
            ),
        )
    rule = _find_rule(solver, where)
    apply = apply_rule(rule, make_schedule(solver, where), pick(lr_mults))

    def update(
        summed_grads: optax.Updates,
        state: HistoryState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, HistoryState]:
        grads = prepare_grads(summed_grads, params)
        learned_state = HistoryState(state.count, pick(state.history))
        updates, learned_state = apply.update(grads, learned_state)
        return (
            merge(updates, jax.tree.map(jnp.zeros_like, params)),
            HistoryState(
                learned_state.count, merge(learned_state.history, state.history)
            ),
        )

    return optax.GradientTransformation(apply.init, update)


def _run_optimizer(
    optimizer: optax.GradientTransformation, prepare_grads: Callable[[Any, Any], Any]
) -> optax.GradientTransformation:
    """Gives a transform of optax's kind prepared gradients, and a HistoryState."""

    def init(params: optax.Params) -> HistoryState:
        return HistoryState(jnp.zeros((), jnp.int32), optimizer.init(params))

    def update(
        summed_grads: optax.Updates,
        state: HistoryState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, HistoryState]:
        grads = prepare_grads(summed_grads, params)
        updates, history = optimizer.update(grads, state.history, params)
        return updates, HistoryState(state.count + 1, history)

    return optax.GradientTransformation(init, update)


def _find_rule(solver: caffe_pb2.SolverParameter, where: str) -> Rule:
    if solver.type in _RULES:
        return _RULES[solver.type](solver)
    problem = f'solver type "{solver.type}" is unknown'
    raise PrototxtError(describe(where, problem, nearest(solver.type, _RULES)))


def _find_decay(
    solver: caffe_pb2.SolverParameter, decay_mults: Any, where: str
) -> Callable[[float, Any], optax.GradientTransformation]:
    regularization_type = solver.regularization_type
    if regularization_type in _DECAYS:
        return _DECAYS[regularization_type]
    local_decays = solver.weight_decay * np.array(jax.tree.leaves(decay_mults))
    if not np.any(local_decays):  # Caffe never reads the type then
        return lambda weight_decay, decay_mults: optax.identity()
    raise PrototxtError(
        describe(
            where,
            f'regularization_type "{regularization_type}" is unknown',
            nearest(regularization_type, _DECAYS),
        )
    )
