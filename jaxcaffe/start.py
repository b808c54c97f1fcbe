"""The state in which a run starts: new, from a snapshot of ours, or from Caffe's.

Follows train of caffe/tools/caffe.cpp and Restore of caffe/src/caffe/solver.cpp.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxcaffe import checkpoint, errors, sharding
from jaxcaffe import run as runs
from jaxcaffe.caffe_files import snapshots as caffe_snapshots
from jaxcaffe.caffe_files.resume import restore_caffe
from jaxcaffe.log import logger
from jaxcaffe.proto.text import format_message
from jaxcaffe.spec import Net, Params, Stats
from jaxcaffe.state import TrainState, add_hidden

Note = Mapping[str, Any]
"""What a snapshot says of its run."""


class Start(NamedTuple):
    """What a run starts with."""

    state: TrainState
    positions: checkpoint.Positions  # of its data layers; none for the beginning
    own: tuple[Params, ...]  # per test net, weights of layers that it alone has
    outdated: Sequence[int] = ()  # snapshots that go when the run's first one is due


def start_new(run: runs.Run, folder: str, overwrite: bool) -> Start:
    """Returns the start of a new run: filled weights, and over them those of files.

    Args:
      run: not begun.
      folder: of its snapshots.
      overwrite: whether snapshots that are there may go.

    Raises:
      CaffeError: weights do not fit; snapshots are in the way.
    """
    own = _own_weights(run)
    state = runs.make_state(run)
    if run.weights:
        params, stats = runs.load_weight_files(
            run.train.net, state.params, state.stats, run.weights
        )
        whole = sharding.replicated(run.mesh)
        params, stats = jax.device_put((params, stats), whole)
        state = state._replace(params=params, stats=stats)
    outdated = refuse_later(folder, 0, overwrite)
    return _make_start(run, state, own, outdated)


def start_from_caffe(run: runs.Run, folder: str, path: str, overwrite: bool) -> Start:
    """Returns the start of a run that goes on from a .solverstate.

    Args:
      run: not begun.
      folder: of its snapshots.
      path: of the .solverstate.
      overwrite: whether later snapshots may go.

    Raises:
      CaffeError: the state does not fit; snapshots are in the way.
    """
    own = _own_weights(run)
    logger.info("Resuming from %s", path)
    state = restore_caffe(run.train.net, run.solver, runs.make_state(run), path)
    state = jax.device_put(state, sharding.replicated(run.mesh))
    _log_weights_unread(run)
    start = int(state.iter)
    check_caffe_files(run, start, overwrite)
    outdated = refuse_later(folder, start, overwrite)
    return _make_start(run, state, own, outdated)


def start_from_snapshot(
    run: runs.Run, folder: str, snapshot: str, overwrite: bool
) -> Start:
    """Returns the start of a run that goes on from a snapshot of ours.

    Args:
      run: not begun.
      folder: of its snapshots.
      snapshot: which one; "" for the newest whole one in `folder`.
      overwrite: whether later snapshots may go.

    Raises:
      CaffeError: the snapshot does not fit; others are in the way.
    """
    own = _own_weights(run)
    state, note, path = _restore(run, folder, snapshot)
    start = int(state.iter)
    # The one it started from may stay, unless it is another run's.
    is_own = os.path.dirname(os.path.abspath(path)) == os.path.abspath(folder)
    # What this very run wrote before it was cut is its own to replace.
    replace = is_own and note.get("caffe_prefix") == _caffe_prefix(run)
    check_caffe_files(run, start, overwrite or replace)
    outdated = refuse_later(folder, start + is_own, overwrite)
    params = tuple(params for params, _ in own)
    return Start(state, note.get("positions", {}), params, outdated)


def check_caffe_files(run: runs.Run, start: int, overwrite: bool) -> None:
    """Refuses a snapshot_prefix that does not do, or has files of an earlier run.

    Raises:
      CaffeError: it does not do.
    """
    if run.config.snapshot.caffe:
        if os.path.abspath(run.config.workdir or ".") == _caffe_prefix(run):
            raise errors.ConfigError(
                errors.describe(
                    "config.workdir",
                    f"{run.config.workdir} is the snapshot_prefix too, and Caffe takes "
                    "a prefix that is a folder for another one",
                    f"another folder, {run.config.workdir}_run for instance",
                )
            )
        caffe_snapshots.check_size(run.train.net, run.solver)
        caffe_snapshots.refuse_existing(run.solver, start, run.max_iter, overwrite)
        caffe_snapshots.check_prefix(run.solver.snapshot_prefix)


def refuse_later(folder: str, start: int, overwrite: bool) -> list[int]:
    """Returns the snapshots of iterations from `start` on, if they may go.

    Raises:
      ConfigError: there are some and `overwrite` is false.
    """
    later = [step for step in checkpoint.steps(folder) if step >= start]
    if later and not overwrite:
        raise errors.ConfigError(
            errors.describe(
                folder,
                f"holds a snapshot of iteration {later[-1]}, which this run would "
                "overwrite",
                "--resume to go on from it, --overwrite to remove it, or another "
                "--config.workdir",
            )
        )
    return later


def make_note(run: runs.Run) -> dict[str, Any]:
    """Returns what snapshots say of the run, besides where its records stand."""
    return {
        "seed": run.seed,
        "solver_type": runs.rule_name(run),
        "net": _digest(run.train.net),
        "config": dict(run.config.data.items()),
        "environment": checkpoint.environment(
            run.mesh.size, run.config.steps_per_dispatch
        ),
        "caffe_prefix": _caffe_prefix(run) if run.config.snapshot.caffe else "",
    }


def _restore(run: runs.Run, folder: str, snapshot: str) -> tuple[TrainState, Note, str]:
    like = runs.state_struct(run)
    whole = sharding.replicated(run.mesh)
    if snapshot:
        state, note = checkpoint.restore(snapshot, like, whole, runs.rule_name(run))
        path = snapshot
    else:
        state, note, path = checkpoint.restore_latest(
            folder, like, whole, runs.rule_name(run)
        )
    logger.info("Resuming from %s", path)
    now = make_note(run)
    changes = checkpoint.environment_changes(note["environment"], now["environment"])
    for change in changes:
        logger.warning(
            "Since the snapshot, %s: results agree to float tolerance only", change
        )
    if note.get("net") != now["net"]:
        logger.warning("Since the snapshot, the text of the training net has changed")
    before = note.get("config", {})
    for name, value in now["config"].items():
        if before.get(name, value) != value:
            logger.warning(
                "Since the snapshot, config.%s was %r, is %r", name, before[name], value
            )
    _log_weights_unread(run)
    return state, note, path


def _log_weights_unread(run: runs.Run) -> None:
    if run.weights:
        logger.info("The snapshot has weights of its own; no weight file is read")


def _caffe_prefix(run: runs.Run) -> str:
    return os.path.abspath(run.solver.snapshot_prefix)


def _digest(net: Net) -> str:
    text = "".join(format_message(node.layer) for node in net.graph.nodes)
    return hashlib.sha256(text.encode()).hexdigest()


def _own_weights(run: runs.Run) -> list[tuple[Params, Stats]]:
    """Returns per test net the blobs of layers that it alone has, mostly none."""
    trained = {info.layer for info in run.train.net.params}
    found: list[tuple[Params, Stats]] = []
    for fed in run.tests:
        if {info.layer for info in fed.net.params} <= trained:
            found.append(({}, {}))
            continue
        params, stats = jax.jit(fed.net.init)(jax.random.key(run.seed))
        # The files are the training net's, and may have nothing that only this one has.
        params, stats = runs.load_weight_files(
            fed.net, params, stats, run.weights, must_fit=False
        )
        found.append(
            (
                {name: blobs for name, blobs in params.items() if name not in trained},
                {name: blobs for name, blobs in stats.items() if name not in trained},
            )
        )
    return found


def _make_start(
    run: runs.Run,
    state: TrainState,
    own: Sequence[tuple[Params, Stats]],
    outdated: Sequence[int],
) -> Start:
    """Puts the statistics of test nets alone into the state, as weight files say."""
    hidden = tuple(
        add_hidden(zeros, stats)
        for zeros, (_, stats) in zip(state.hidden, own, strict=True)
    )
    hidden = jax.device_put(hidden, sharding.replicated(run.mesh))
    params = tuple(params for params, _ in own)
    return Start(state._replace(hidden=hidden), {}, params, outdated)
