"""Writes snapshots beside a training run, in a thread of their own.

Takes the place of Snapshot in caffe/src/caffe/solver.cpp.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from jaxcaffe import errors
from jaxcaffe.checkpoint import folder as folders
from jaxcaffe.checkpoint.arrays import write_tree
from jaxcaffe.checkpoint.note import NOTE, STATE, first_line, note_handler
from jaxcaffe.log import logger
from jaxcaffe.state import TrainState


class Writer(NamedTuple):
    """Writes snapshots, one at a time, while training goes on.

    One that cannot be written costs the run nothing else: it is logged as an error,
    earlier ones stay, and the next is tried at its time.
    """

    save: Callable[[TrainState, Mapping[str, Any]], str]
    """(state, note) -> path, at once. The state is one that no later step uses up, as
    `copy_state` gives it. Waits for the snapshot before. The note has "positions" (see
    Positions), "seed" and whatever describes the run, as JSON has it."""

    wait: Callable[[], errors.SnapshotError | None]
    """Returns, once nothing is being written, why the last snapshot is not there."""

    close: Callable[[], None]
    """Waits likewise and ends the thread."""


def open_writer(folder: str, keep: int, outdated: Sequence[int] = ()) -> Writer:
    """Returns the writer of a run's snapshots.

    Args:
      folder: for instance `runs/lenet/snapshots`; see folder.open_folder.
      keep: how many of the newest stay; 0 keeps all.
      outdated: iterations of snapshots that go when the first of this run is due, and
        not before: until then they are all there is.

    Raises:
      SnapshotError: the folder cannot be made or written.

    Source: caffe/src/caffe/solver.cpp, Snapshot. Differs: Caffe stops training while
    it writes, writes in place, keeps everything, and dies when the disk is full.
    """
    folders.open_folder(folder)
    pool = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
    pending: list[Future[errors.SnapshotError | None]] = []
    failures: list[errors.SnapshotError | None] = [None]
    going = list(outdated)

    def save(state: TrainState, note: Mapping[str, Any]) -> str:
        wait()
        while going:
            folders.remove(folder, going.pop())
        iteration = int(state.iter)
        path = os.path.join(folder, str(iteration))
        # It may be there: a run may stand where the snapshot was taken that it started
        # from.
        if iteration not in folders.steps(folder):
            logger.info("Snapshotting to %s", path)
            pending.append(
                pool.submit(_write, folder, keep, iteration, state, dict(note))
            )
        return path

    def wait() -> errors.SnapshotError | None:
        while pending:
            failures[0] = pending.pop().result()
        return failures[0]

    return Writer(save, wait, lambda: pool.shutdown(wait=True))


def copy_state(state: TrainState) -> TrainState:
    """Returns the state on one device, in memory that no later step uses up.

    The copy is queued behind the step that computes the values and takes as long as
    the device needs to copy its own memory; whoever writes it brings it to the host
    while the next steps run.
    """
    one = jax.tree.map(_one_replica, state)
    try:
        return _copy_on_device(one)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        # No room beside the net: the host has some, and the step waits for it.
        return jax.device_get(one)


def _one_replica(array: jax.Array) -> jax.Array:
    return array.addressable_data(0) if array.is_fully_replicated else array


@jax.jit
def _copy_on_device(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def _write(
    folder: str, keep: int, iteration: int, state: TrainState, note: dict[str, Any]
) -> errors.SnapshotError | None:
    """Writes one snapshot and removes what is too old; returns what went wrong."""
    try:
        partial = folders.begin(folder, iteration)
        for part in (STATE, NOTE):
            os.makedirs(os.path.join(partial, part))
        write_tree(os.path.join(partial, STATE), state._asdict())
        note_handler().save(epath.Path(partial) / NOTE, args=ocp.args.JsonSave(note))
        path = folders.commit(folder, iteration)
    except Exception as error:
        folders.discard(folder)
        return _describe(folder, iteration, error)
    logger.info("Snapshot of iteration %d is complete: %s", iteration, path)
    try:
        for step in folders.steps(folder)[:-keep] if keep else ():
            folders.remove(folder, step)
    except OSError as error:
        logger.warning(
            "%s: snapshots older than the newest %d cannot be removed (%s)",
            folder,
            keep,
            error.strerror,
        )
    return None


def _describe(folder: str, iteration: int, error: Exception) -> errors.SnapshotError:
    reason = (isinstance(error, OSError) and error.strerror) or first_line(error)
    there = folders.steps(folder)
    newest = f"the newest whole one is {there[-1]}" if there else "there is no other"
    failure = errors.SnapshotError(
        errors.describe(
            folder,
            f"the snapshot of iteration {iteration} could not be written ({reason}); "
            f"{newest}",
            "a disk with room that may be written",
        )
    )
    logger.error("%s The run goes on and tries again at its next snapshot.", failure)
    return failure
