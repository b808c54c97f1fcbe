"""The learning rate of every iteration, for each of Caffe's seven lr_policy values.

Follows SGDSolver::GetLearningRate of caffe/src/caffe/solvers/sgd_solver.cpp.

Rates are worked out on the host, in the mix of float and double that Caffe uses, and
looked up by the compiled step: powers of XLA differ from those of libm in the last
bit, and some accelerators have no doubles.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcaffe.errors import PrototxtError, describe, nearest
from jaxcaffe.proto import caffe_pb2

LR_POLICIES = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid")

_WITH_GAMMA = ("step", "exp", "inv", "multistep", "sigmoid")
_WITH_STEPSIZE = ("step", "sigmoid")

_LONGEST_TABLE = 1 << 20
"""Rates kept in one table, 4 MiB of float32. Later ones, and those after max_iter, are
computed on the device in float32 instead, exact but for the last bits."""


def make_schedule(solver: caffe_pb2.SolverParameter, where: str = "") -> optax.Schedule:
    """Returns the function that gives the learning rate of an iteration.

    With i the iteration, counted from 0, and k = current_step:

      fixed      base_lr
      step       base_lr * gamma^k, k = i / stepsize in integers
      exp        base_lr * gamma^i
      inv        base_lr * (1 + gamma * i)^-power
      multistep  base_lr * gamma^k, k = number of stepvalues reached; at most one more
                 per iteration, so a stepvalue not above its forerunner comes one later
      poly       base_lr * (1 - i / max_iter)^power
      sigmoid    base_lr / (1 + exp(-gamma * (i - stepsize)))

    Args:
      solver: gives lr_policy, base_lr and what the policy needs.
      where: path of the solver file, for messages.

    Returns:
      count -> rate: count any shape, int32, the iteration >= 0; rate the same shape,
      float32. It may be jitted. Up to max_iter, or 2^20 distinct rates, it equals
      Caffe's rate bit for bit.

    Raises:
      PrototxtError: lr_policy missing or unknown; gamma negative; stepsize < 1.
    Source: caffe/src/caffe/solvers/sgd_solver.cpp, GetLearningRate. Differs: multistep
      counts from the file's stepvalues alone, so stepvalues that change before a
      resume act as if they had stood there from iteration 0.
    """
    _check_policy(solver, where)
    last_step = _step_at(solver, np.int64(max(solver.max_iter, 0)), np)
    if solver.lr_policy == "multistep":
        last_step = len(solver.stepvalue)
    table_size = min(int(last_step), _LONGEST_TABLE) + 1
    with np.errstate(all="ignore"):  # overflow and 0/0 give inf and NaN, as in Caffe
        table = _rate_at(solver, np.arange(table_size), np, np.float64)
    is_complete = solver.lr_policy in ("fixed", "multistep")

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        step = _step_at(solver, jnp.asarray(count, jnp.int32), jnp)
        rate = jnp.asarray(table)[jnp.minimum(step, table_size - 1)]
        if is_complete:
            return rate
        beyond = _rate_at(solver, step, jnp, np.float32)
        return jnp.where(step < table_size, rate, beyond)

    return schedule


def current_step(solver: caffe_pb2.SolverParameter, iter_: int) -> int:
    """Returns what Caffe writes as `current_step` into a snapshot.

    Args:
      solver: gives lr_policy with stepsize or stepvalue.
      iter_: updates made so far; the rate was last computed for iteration iter_ - 1.
    Source: caffe/src/caffe/solvers/sgd_solver.cpp, GetLearningRate. Differs: none.
    """
    if iter_ < 1 or solver.lr_policy not in ("step", "multistep"):
        return 0
    return int(_step_at(solver, np.int64(iter_ - 1), np))


def multistep_changes(solver: caffe_pb2.SolverParameter) -> dict[int, int]:
    """Returns when a multistep rate changes: iteration -> number of the new step.

    Source: caffe/src/caffe/solvers/sgd_solver.cpp, GetLearningRate, which logs them.
      Differs: none.
    """
    if solver.lr_policy != "multistep":
        return {}
    effective = _effective_stepvalues(solver).tolist()
    return {iteration: step for step, iteration in enumerate(effective, start=1)}


def _check_policy(solver: caffe_pb2.SolverParameter, where: str) -> None:
    lr_policy = solver.lr_policy
    if not lr_policy:
        raise PrototxtError(
            describe(where, "lr_policy is missing", ", ".join(LR_POLICIES))
        )
    if lr_policy not in LR_POLICIES:
        raise PrototxtError(
            describe(
                where,
                f'lr_policy "{lr_policy}" is unknown',
                nearest(lr_policy, LR_POLICIES),
            )
        )
    if lr_policy in _WITH_GAMMA and not solver.gamma >= 0:
        raise PrototxtError(
            describe(
                where,
                f'lr_policy "{lr_policy}" has gamma {solver.gamma:g}',
                "gamma >= 0",
            )
        )
    if lr_policy in _WITH_STEPSIZE and solver.stepsize < 1:
        found = f"stepsize {solver.stepsize}" if solver.HasField("stepsize") else "none"
        raise PrototxtError(
            describe(
                where,
                f'lr_policy "{lr_policy}" needs a stepsize and has {found}',
                "stepsize >= 1, in iterations",
            )
        )


def _step_at(solver: caffe_pb2.SolverParameter, count: Any, xp: Any) -> Any:
    """Number of the rate in force at iteration `count`: the exponent, or i itself."""
    match solver.lr_policy:
        case "fixed":
            return xp.zeros_like(count)
        case "step":
            return count // solver.stepsize
        case "multistep":
            reached = count[..., None] >= _effective_stepvalues(solver)
            return xp.sum(reached, axis=-1, dtype=count.dtype)
        case _:
            return count


def _effective_stepvalues(solver: caffe_pb2.SolverParameter) -> np.ndarray:
    """Iteration at which each stepvalue takes effect, strictly rising, int32."""
    effective: list[int] = []
    for stepvalue in solver.stepvalue:
        soonest = effective[-1] + 1 if effective else 0
        effective.append(max(stepvalue, soonest))
    return np.array(effective, np.int32)


def _rate_at(
    solver: caffe_pb2.SolverParameter, step: Any, xp: Any, wide: type[np.floating]
) -> Any:
    """Rates of `step`, float32; `wide` stands in for double where Caffe has one.

    Caffe's powers of gamma are double and rounded to float only after the product with
    base_lr; the other policies are float throughout. A float power is computed in
    `wide` and rounded, which is what libm's powf gives.
    """

    def narrow(x: Any) -> Any:
        return x.astype(np.float32)

    base_lr = np.float32(solver.base_lr)
    power = wide(solver.power)
    iteration = step.astype(np.float32)
    match solver.lr_policy:
        case "fixed":
            return xp.full(step.shape, base_lr)
        case "step" | "multistep" | "exp":
            return narrow(
                wide(base_lr) * xp.power(wide(solver.gamma), step.astype(wide))
            )
        case "inv":
            # One rounding for the product and the sum: Caffe's builds fuse the two.
            grown = narrow(wide(1) + wide(solver.gamma) * iteration.astype(wide))
            return base_lr * narrow(xp.power(grown.astype(wide), -power))
        case "poly":
            max_iter = np.float32(solver.max_iter)
            if xp is np:
                left = np.float32(1) - iteration / max_iter
            else:  # XLA multiplies by 1 / max_iter: the above may miss 0 at max_iter
                left = (solver.max_iter - step).astype(np.float32) / max_iter
            return base_lr * narrow(xp.power(left.astype(wide), power))
        case "sigmoid":
            distance = iteration - np.float32(solver.stepsize)
            exponent = -np.float32(solver.gamma) * distance
            grown = narrow(xp.exp(exponent.astype(wide)))
            return base_lr * (np.float32(1) / (np.float32(1) + grown))
    raise AssertionError(solver.lr_policy)
