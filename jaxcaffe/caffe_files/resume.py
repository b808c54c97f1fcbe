"""Takes over a run that Caffe has snapshotted.

Follows caffe/src/caffe/solvers/sgd_solver.cpp, RestoreSolverState.
"""

from __future__ import annotations

import os

import jax.numpy as jnp

from jaxcaffe.caffe_files.solverstate import (
    SolverState,
    import_history,
    read_solver_state,
)
from jaxcaffe.caffe_files.weights import copy_weights
from jaxcaffe.errors import SnapshotError, describe
from jaxcaffe.log import logger
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.solver.schedule import current_step
from jaxcaffe.spec import Net
from jaxcaffe.state import TrainState


def is_caffe_file(path: str) -> bool:
    """Returns whether a --snapshot is a file, as Caffe's are; ours are folders."""
    return os.path.isfile(path) or path.endswith((".solverstate", ".caffemodel", ".h5"))


def restore_caffe(
    net: Net, solver: caffe_pb2.SolverParameter, state: TrainState, path: str
) -> TrainState:
    """Returns the state in which Caffe's solver would go on from a .solverstate.

    Weights, history and iteration are the file's. What it does not hold is new: the
    window of losses is empty, random numbers come from this run's seed, and the data
    layers start at record 0, as Caffe's do.

    Args:
      net: the TRAIN net.
      solver: of this run.
      state: before iteration 0.
      path: a .solverstate or .solverstate.h5.

    Returns:
      A state that shares nothing with `path`; its new arrays are on the default device.

    Raises:
      SnapshotError: the state or its weights are missing, broken, or of another net or
        solver type.

    Source: caffe/src/caffe/solvers/sgd_solver.cpp, RestoreSolverState. Differs: weights
    that are not where the state says are looked for beside it; a state that names none
    is refused, where Caffe goes on with freshly filled ones.
    """
    held = read_solver_state(path)
    history = import_history(
        net, state.opt_state.history, held.history, solver.type, path
    )
    weights = find_learned_net(held, path)
    logger.info("Copying the weights of %s", weights)
    params, stats, report = copy_weights(net, state.params, state.stats, weights)
    for name in report.ignored:
        logger.info("Ignoring source layer %s", name)
    if report.missing:
        raise SnapshotError(
            describe(
                weights,
                "holds no weights for "
                + ", ".join(f'"{name}"' for name in report.missing),
                "the weights of the run's own net",
            )
        )
    expected = current_step(solver, held.iter)
    if held.current_step != expected:
        logger.warning(
            "current_step is %d in %s; the solver's %s schedule makes it %d and is "
            "followed",
            held.current_step,
            path,
            solver.lr_policy,
            expected,
        )
    logger.info("SGDSolver: restoring history")
    logger.info(
        "A solverstate holds no data positions: data layers start at record 0, as in "
        "Caffe"
    )
    arrays = _to_arrays(history)
    return state._replace(
        iter=jnp.array(held.iter, state.iter.dtype),
        params=params,
        stats=stats,
        # An array of its own: both are given away to the first step.
        opt_state=state.opt_state._replace(
            count=jnp.array(held.iter, state.opt_state.count.dtype), history=arrays
        ),
    )


def find_learned_net(state: SolverState, path: str) -> str:
    """Returns the weight file of a state, as written or beside the state.

    Args:
      state: read from `path`.
      path: of the .solverstate.

    Raises:
      SnapshotError: the state names no file, or it is in neither place.

    Source: caffe/src/caffe/solvers/sgd_solver.cpp, RestoreSolverState. Differs: Caffe
    does not look beside the state.
    """
    if not state.learned_net:
        problem = "names no weights that belong to it (learned_net)"
        raise SnapshotError(
            describe(path, problem, "a .solverstate as Caffe writes it")
        )
    beside = os.path.join(os.path.dirname(path), os.path.basename(state.learned_net))
    for candidate in (state.learned_net, beside):
        if os.path.isfile(candidate):
            return candidate
    raise SnapshotError(
        describe(
            path,
            f"its weights {state.learned_net} are neither there, seen from the working "
            f"directory, nor at {beside}",
            "that file in one of the two places",
        )
    )


def _to_arrays(history: dict) -> dict:
    return {
        layer: {
            blob: tuple(jnp.asarray(array) for array in leaf)
            if isinstance(leaf, tuple)
            else jnp.asarray(leaf)
            for blob, leaf in leaves.items()
        }
        for layer, leaves in history.items()
    }
