"""Writes Caffe's two snapshot files beside a training run, in a thread of their own.

Follows caffe/src/caffe/solver.cpp, Snapshot, SnapshotFilename and
CheckSnapshotWritePermissions.
"""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcaffe.caffe_files import hdf5
from jaxcaffe.caffe_files.caffemodel import (
    LONGEST_MESSAGE,
    saved_layers,
    write_caffemodel,
)
from jaxcaffe.caffe_files.solverstate import (
    SolverState,
    export_history,
    write_solver_state,
)
from jaxcaffe.errors import ConfigError, SnapshotError, describe
from jaxcaffe.log import logger
from jaxcaffe.net.params import is_owner
from jaxcaffe.net.weights import export_weights, layer_infos
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.files import remove_leftovers
from jaxcaffe.solver.schedule import current_step
from jaxcaffe.spec import Net, Params
from jaxcaffe.state import TrainState

_NAME = r"_iter_(\d+)(\.caffemodel|\.solverstate)(\.h5)?"
_WITHOUT = "--config.snapshot.caffe=false to write none"


class Writer(NamedTuple):
    """Writes snapshots, one at a time, while training goes on.

    One that cannot be written costs the run nothing else: it is logged as an error,
    and the next is tried at its time.
    """

    save: Callable[[TrainState, Params | None], None]
    """(state, what the last update added to each blob or None) -> nothing. Logs the
    names and returns; waits for the snapshot before. Neither argument may be used up
    by a later step: the state is one that checkpoint.copy_state gives."""

    wait: Callable[[], SnapshotError | None]
    """Returns, once nothing is being written, why the last snapshot is not there."""

    close: Callable[[], None]
    """Waits likewise and ends the thread."""


def open_writer(
    net: Net, solver: caffe_pb2.SolverParameter, start: int, with_state: bool = True
) -> Writer:
    """Returns the writer of a run's snapshots.

    Args:
      net: the TRAIN net.
      solver: gives snapshot_prefix, snapshot_format and snapshot_diff.
      start: iteration at which the run starts; files of that iteration, which it may
        have started from, are left as they are.
      with_state: whether the history is that of one of Caffe's solvers; without it
        there are weights alone.

    Source: caffe/src/caffe/solver.cpp, Snapshot. Differs: Caffe writes in place, and
    trains on only afterwards.
    """
    model_end, state_end = extensions(solver)
    layers = saved_layers(net)
    pool = ThreadPoolExecutor(1, thread_name_prefix="caffe-snapshot")
    pending: list[Future[SnapshotError | None]] = []
    failures: list[SnapshotError | None] = [None]

    def save(state: TrainState, updates: Params | None) -> None:
        wait()
        iteration = int(state.iter)
        model_path, state_path = (
            f"{solver.snapshot_prefix}_iter_{iteration}{end}"
            for end in (model_end, state_end)
        )
        last_path = state_path if with_state else model_path
        if iteration == start and os.path.exists(last_path):
            return
        kind = "HDF5" if model_end.endswith(".h5") else "binary proto"
        logger.info("Snapshotting to %s file %s", kind, model_path)
        if with_state:
            logger.info("Snapshotting solver state to %s file %s", kind, state_path)
        history = state.opt_state.history if with_state else None
        wanted = (state.params, state.stats, history, updates)
        values = wanted if solver.snapshot_diff else (*wanted[:3], None)
        pending.append(
            pool.submit(
                _try_write,
                net,
                solver,
                layers,
                iteration,
                model_path,
                state_path,
                *values,
            )
        )

    def wait() -> SnapshotError | None:
        while pending:
            failures[0] = pending.pop().result()
        return failures[0]

    return Writer(save, wait, lambda: pool.shutdown(wait=True))


def extensions(solver: caffe_pb2.SolverParameter) -> tuple[str, str]:
    """Returns how the names of weights and state end, by snapshot_format."""
    is_hdf5 = solver.snapshot_format == caffe_pb2.SolverParameter.HDF5
    end = ".h5" if is_hdf5 else ""
    return f".caffemodel{end}", f".solverstate{end}"


def check_prefix(snapshot_prefix: str) -> None:
    """Makes the folder of a prefix if needed, and a file in it to see that it can.

    What killed processes had begun to write there goes.

    Raises:
      SnapshotError: it cannot be made or written.

    Source: caffe/src/caffe/solver.cpp, CheckSnapshotWritePermissions. Differs: the
    folder is made.
    """
    probe = f"{snapshot_prefix}_iter_0.tempfile-{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(probe) or ".", exist_ok=True)
        with open(probe, "xb"):
            pass
        os.remove(probe)
        stem = re.escape(os.path.basename(snapshot_prefix))
        remove_leftovers(os.path.dirname(probe) or ".", re.compile(stem + _NAME))
    except OSError as error:
        raise SnapshotError(
            describe(
                f"snapshot_prefix {snapshot_prefix}",
                f"no file can be written there ({error.strerror})",
                f"a prefix in a folder that may be written, or {_WITHOUT}",
            )
        ) from error


def check_size(net: Net, solver: caffe_pb2.SolverParameter) -> None:
    """Refuses, before any training, what could never be written.

    Raises:
      SnapshotError: a .caffemodel would be over 2 GiB, which no binary message may be.
    """
    if solver.snapshot_format == caffe_pb2.SolverParameter.HDF5:
        return
    repeated = sum(math.prod(info.shape) for info in net.params)
    if 4 * repeated * (2 if solver.snapshot_diff else 1) > LONGEST_MESSAGE:
        raise SnapshotError(
            describe(
                f"snapshot_prefix {solver.snapshot_prefix}",
                f"a .caffemodel of the net's {repeated} numbers would be over 2 GiB",
                f"snapshot_format: HDF5, or {_WITHOUT}",
            )
        )


def refuse_existing(
    solver: caffe_pb2.SolverParameter, start: int, max_iter: int, overwrite: bool
) -> None:
    """Refuses a run that would write over files of an earlier one.

    Args:
      solver: gives snapshot_prefix and snapshot_format.
      start: iteration at which the run starts; its files may be there unless it is 0.
      max_iter: iteration at which it ends.
      overwrite: whether the run may write over them.

    Raises:
      ConfigError: there are such files and `overwrite` is false.
    """
    if overwrite:
        return
    least = start + 1 if start else 0
    pattern = re.compile(_NAME)
    ends = extensions(solver)
    found: list[tuple[int, str]] = []
    for path in glob.glob(f"{glob.escape(solver.snapshot_prefix)}_iter_*"):
        match = pattern.fullmatch(path, len(solver.snapshot_prefix))
        if match is None or match[2] + (match[3] or "") not in ends:
            continue
        if least <= int(match[1]) <= max_iter:
            found.append((int(match[1]), path))
    if found:
        raise ConfigError(
            describe(
                max(found)[1],
                f"is there already, and this run from iteration {start} to {max_iter} "
                "would write over it",
                f"--overwrite, another snapshot_prefix, or {_WITHOUT}",
            )
        )


def _try_write(*arguments: Any) -> SnapshotError | None:
    """Writes one snapshot; returns what went wrong."""
    try:
        _write(*arguments)
    except SnapshotError as error:
        failure = error
    except Exception as error:
        problem = f"a snapshot for Caffe could not be written ({error})"
        failure = SnapshotError(describe("", problem))
    else:
        return None
    logger.error("%s The run goes on and tries again at its next snapshot.", failure)
    return failure


def _write(
    net: Net,
    solver: caffe_pb2.SolverParameter,
    layers: list[caffe_pb2.LayerParameter],
    iteration: int,
    model_path: str,
    state_path: str,
    params: Any,
    stats: Any,
    history: Any,
    updates: Any,
) -> None:
    params, stats, history, updates = jax.device_get((params, stats, history, updates))
    blobs = export_weights(net, params, stats)
    diffs = None
    if solver.snapshot_diff:
        zeros = jax.tree.map(np.zeros_like, stats)
        lost = jax.tree.map(
            np.negative if updates else np.zeros_like, updates or params
        )
        diffs = export_weights(net, lost, zeros)
    write_weights(model_path, net, layers, blobs, diffs)
    if history is None:
        return
    # Last, so that whoever finds a state finds its weights.
    write_solver_state(
        state_path,
        SolverState(
            iteration,
            model_path,
            current_step(solver, iteration),
            export_history(net, history),
        ),
    )


def write_weights(
    path: str,
    net: Net,
    layers: list[caffe_pb2.LayerParameter],
    blobs: dict[str, list[np.ndarray]],
    diffs: dict[str, list[np.ndarray]] | None = None,
) -> None:
    """Writes a net's weights as Caffe does, in HDF5 where the name ends in .h5.

    Args:
      path: of the file, which gives way if it is there.
      net: a translated net.
      layers: from `saved_layers`.
      blobs: from `export_weights`.
      diffs: likewise, gradients; None to write none.

    Raises:
      SnapshotError: the file cannot be written.

    Source: caffe/src/caffe/net.cpp, ToProto and ToHDF5. Differs: none.
    """
    if not path.endswith(".h5"):
        write_caffemodel(path, net.graph.name, layers, blobs, diffs)
        return
    infos = layer_infos(net)
    owned = {
        name: [
            blob if is_owner(info) else None
            for blob, info in zip(theirs, infos[name], strict=True)
        ]
        for name, theirs in blobs.items()
    }
    hdf5.write_weights(path, [layer.name for layer in layers], owned, diffs or {})
