"""A solver file and the multipliers of a net's parameters become one optax transform.

Follows SGDSolver::ApplyUpdate and SolverRegistry (caffe/src/caffe/solvers/
sgd_solver.cpp, caffe/include/caffe/solver_factory.hpp).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
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
    count_updates,
    divide_by_iter_size,
    forget_frozen,
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
    anything, None included, and its update is zero. Its history is zero too unless an
    adaptive rule remembers its decay.

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
      force_backward Caffe also clips by the gradients of frozen parameters.
    """
    check_solver(solver, where)
    decay = _find_decay(solver, decay_mults, where)
    prepare = optax.chain(
        forget_frozen(lr_mults),
        clip_by_sum_norm(solver.clip_gradients),
        divide_by_iter_size(solver.iter_size),
        decay(solver.weight_decay, decay_mults),
    )
    if optimizer is None:
        rule = _find_rule(solver, where)
        last = apply_rule(rule, make_schedule(solver, where), lr_mults)
    else:
        last = count_updates(optimizer)

    def update(
        summed_grads: optax.Updates,
        state: HistoryState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, HistoryState]:
        grads, _ = prepare.update(summed_grads, prepare.init(params), params)
        return last.update(grads, state, params)

    return optax.GradientTransformation(last.init, update)


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
