"""Any optax transformation in the place of a solver's own type.

It replaces ComputeUpdateValue of the solvers in caffe/src/caffe/solvers; what comes
before it, and lr_mult, stay those of caffe/src/caffe/solvers/sgd_solver.cpp.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from jaxcaffe.errors import ConfigError, describe, nearest

MakeOptimizer = Callable[[optax.Schedule], optax.GradientTransformation]
"""Learning rate schedule -> transform whose updates are added, as optax.lion has it."""

_WHERE = "config.optimizer"
_WANTED = 'a function of the learning rate, as in "optax.lion"'


def open_optimizer(
    optimizer: str | MakeOptimizer,
    schedule: optax.Schedule,
    lr_mults: Any,
    params: Any,
) -> optax.GradientTransformation:
    """Returns a transformation of optax's kind, made for the parameters of a net.

    update = lr_mult * (what the transformation makes of the learned gradients)

    A parameter with lr_mult 0 is hidden from it, so it remembers nothing of it.

    Args:
      optimizer: dotted name of a callable that takes a schedule first, or the callable.
      schedule: () int32 count -> () float32 rate.
      lr_mults: tree like the parameters, a float for each.
      params: the parameters, as arrays or ShapeDtypeStructs.

    Returns:
      Transform for build.build_tx: of a tree of float32 gradients like the parameters,
      zeros at the frozen ones, into updates of the same shapes.

    Raises:
      ConfigError: no such module or name; it is no callable, fails, or gives no
        GradientTransformation; the transformation needs more than gradients and
        parameters, or its state is none that a snapshot can hold.
    """
    make = _find(optimizer) if isinstance(optimizer, str) else optimizer
    try:
        found = make(schedule)
    except Exception as error:
        raise _failure(optimizer, "cannot be made", error) from error
    if not isinstance(found, optax.GradientTransformation):
        problem = f"{_written(optimizer)} gives a {type(found).__name__}"
        accepted = "one that gives an optax.GradientTransformation, as optax.lion does"
        raise ConfigError(describe(_WHERE, problem, accepted))
    masked = optax.masked(found, jax.tree.map(lambda mult: mult != 0, lr_mults))

    def update(
        grads: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, state = masked.update(grads, state, params)
        scaled = jax.tree.map(
            lambda lr_mult, u: u * np.float32(lr_mult), lr_mults, updates
        )
        return scaled, state

    whole = optax.GradientTransformation(masked.init, update)
    _check_update(optimizer, whole, params)
    return whole


def optimizer_name(optimizer: str | MakeOptimizer) -> str:
    """Returns by which name a snapshot remembers an optimizer, without its module."""
    if isinstance(optimizer, str):
        return optimizer.rpartition(".")[2]
    while isinstance(optimizer, functools.partial):
        optimizer = optimizer.func
    return getattr(optimizer, "__name__", type(optimizer).__name__)


def _find(dotted: str) -> MakeOptimizer:
    module_name, _, name = dotted.rpartition(".")
    if not module_name or not name:
        problem = f'"{dotted}" is not a module and a name in it'
        raise ConfigError(describe(_WHERE, problem, _WANTED))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that exists may in turn lack another.
        absent = error.name or module_name
        raise ConfigError(
            describe(
                _WHERE,
                f'"{dotted}": there is no module "{absent}"',
                f"a module that can be imported from here, {_WANTED}",
            )
        ) from error
    except Exception as error:
        raise _failure(dotted, "cannot be imported", error) from error
    if not hasattr(module, name):
        known = [n for n in dir(module) if callable(getattr(module, n))]
        close = nearest(name, [n for n in known if not n.startswith("_")] or [_WANTED])
        problem = f'"{dotted}": module {module_name} has no "{name}"'
        raise ConfigError(describe(_WHERE, problem, close))
    found = getattr(module, name)
    if not callable(found):
        problem = f'"{dotted}" is a {type(found).__name__}'
        raise ConfigError(describe(_WHERE, problem, _WANTED))
    return found


def _check_update(
    optimizer: str | MakeOptimizer, tx: optax.GradientTransformation, params: Any
) -> None:
    """Traces one update, so that no mistake waits until the first training step."""
    try:
        before = jax.eval_shape(tx.init, params)
        updates, after = jax.eval_shape(tx.update, params, before, params)
    except Exception as error:
        raise _failure(optimizer, "cannot make an update", error) from error
    if _shapes(updates) != _shapes(params):
        problem = f"{_written(optimizer)} gives updates unlike the parameters"
        raise ConfigError(describe(_WHERE, problem, "one update for each parameter"))
    if _types(after) != _types(before) or not _is_storable(before):
        problem = f"{_written(optimizer)} keeps a state that no snapshot can hold"
        accepted = "arrays of numbers whose shapes and types stay the same"
        raise ConfigError(describe(_WHERE, problem, accepted))


def _shapes(tree: Any) -> tuple[Any, list[tuple[int, ...]]]:
    return jax.tree.structure(tree), [leaf.shape for leaf in jax.tree.leaves(tree)]


def _types(tree: Any) -> tuple[Any, list[tuple[tuple[int, ...], Any]]]:
    leaves = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
    return jax.tree.structure(tree), leaves


def _is_storable(tree: Any) -> bool:
    return not any(
        jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended)
        for leaf in jax.tree.leaves(tree)
    )


def _failure(
    optimizer: str | MakeOptimizer, what: str, error: Exception
) -> ConfigError:
    reason = (str(error).strip() or "no message").splitlines()[0][:200]
    problem = f"{_written(optimizer)} {what} ({type(error).__name__}: {reason})"
    accepted = f"{_WANTED}, whose update needs gradients and parameters alone"
    return ConfigError(describe(_WHERE, problem, accepted))


def _written(optimizer: str | MakeOptimizer) -> str:
    name = optimizer if isinstance(optimizer, str) else optimizer_name(optimizer)
    return f'"{name}"'
