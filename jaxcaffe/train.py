"""Trains a net: `python -m jaxcaffe.train CONFIG`.

CONFIG is a config.py with get_config(), or a solver prototxt. Follows the train
command of caffe/tools/caffe.cpp.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections

from jaxcaffe import blame, checkpoint, errors, log, loop, sharding, signals
from jaxcaffe import run as runs
from jaxcaffe.caffe_files import snapshots as caffe_snapshots
from jaxcaffe.caffe_files.resume import is_caffe_file, restore_caffe
from jaxcaffe.caffe_files.solverstate import read_solver_state
from jaxcaffe.config import load_config, split_overrides
from jaxcaffe.datasets.prepare import prepare
from jaxcaffe.debug_info import make_test_probe, make_train_probe
from jaxcaffe.log import logger
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import format_message
from jaxcaffe.spec import Net, Params, Stats
from jaxcaffe.state import TrainState, add_hidden
from jaxcaffe.tools import cli
from jaxcaffe.tools.state_flags import add_state_flags, read_state

DESCRIPTION = """\
Trains a net from a config.py or a solver prototxt.

  python -m jaxcaffe.train configs/digits.py
  python -m jaxcaffe.train solver.prototxt --weights=start.caffemodel
  python -m jaxcaffe.train solver.prototxt --snapshot=lenet_iter_5000.solverstate
  python -m jaxcaffe.train configs/digits.py --resume --config.max_iter=2000

Any field of the config may be given as --config.FIELD=VALUE. SIGINT and SIGTERM
snapshot and stop, SIGHUP snapshots and goes on."""

Note = Mapping[str, Any]
"""What a snapshot says of its run."""


def main(argv: Sequence[str]) -> int:
    """Runs the command line; see --help. Returns the exit status.

    Raises:
      CaffeError: whatever the files, the data or the flags say that cannot be.
    """
    log.quieten_libraries()
    argv, overrides = split_overrides(argv)
    parser = cli.Parser("jaxcaffe.train", DESCRIPTION)
    parser.argument("config", "a config.py or a solver prototxt")
    parser.flag("resume", False, "go on from the newest snapshot in the workdir")
    parser.flag("snapshot", "", "go on from this folder or .solverstate[.h5]")
    parser.flag("weights", "", "start from these .caffemodel[.h5], comma-separated")
    parser.flag("overwrite", False, "remove or replace snapshots that are in the way")
    add_state_flags(parser)
    flags = parser.parse(argv)
    if flags.weights and (flags.resume or flags.snapshot):
        raise errors.ConfigError(
            errors.describe(
                "--weights",
                "cannot be combined with a snapshot, which has weights of its own",
                "--weights to start anew, or --snapshot or --resume to go on",
            )
        )
    if flags.resume and flags.snapshot:
        raise errors.ConfigError(
            errors.describe("--resume", "and --snapshot are both given", "one of them")
        )
    config = load_config(flags.config, overrides)
    if flags.weights:
        with config.unlocked():
            config.weights = flags.weights
    asked = read_state(flags, caffe_pb2.TRAIN)
    train(config, flags.resume, flags.snapshot, flags.overwrite, asked)
    return 0


@errors.from_callbacks()
def train(
    config: ml_collections.ConfigDict,
    resume: bool = False,
    snapshot: str = "",
    overwrite: bool = False,
    asked: caffe_pb2.NetState | None = None,
) -> loop.Result:
    """Trains as a config says.

    Args:
      config: from config.load_config. Its `weights` count only where a run starts.
      resume: go on from the newest whole snapshot in the workdir.
      snapshot: go on from this one instead, of ours or a .solverstate of Caffe's; ""
        for none.
      overwrite: snapshots in the workdir that the run would write again are removed,
        Caffe's files at snapshot_prefix replaced.
      asked: level and stages of the training net, put over the solver's train_state.

    Raises:
      CaffeError: as `main`.
    """
    # Before anything asks for a device: precision decides how devices are started.
    runs.set_precision(config.precision)
    with log.logging_to(None), log.remembering() as memory:
        prepare(config.prepare)
        workdir = runs.find_workdir(config)
        folder = os.path.join(workdir, "snapshots")
        note: Note = {}
        from_caffe = is_caffe_file(snapshot)
        if from_caffe:
            _refuse_optimizer(config, snapshot)
            read_solver_state(snapshot)  # Before any work, if it is none.
        elif snapshot:
            note = checkpoint.read_note(snapshot)
        elif resume:
            note = checkpoint.read_newest_note(folder)
        else:
            _refuse_later(folder, 0, overwrite)
        run = runs.open_run(config, note.get("seed"), asked)
        _log_circumstances(run, note)
        if not (snapshot or resume):
            _check_caffe_files(run, 0, overwrite)
        with (
            checkpoint.hold_workdir(workdir),
            log.logging_to(os.path.join(workdir, "train.log"), memory),
            signals.watch_signals() as poll,
        ):
            checkpoint.open_folder(folder)
            own = tuple(_own_weights(run, fed) for fed in run.tests)
            if from_caffe:
                state = _add_own_stats(run, _restore_caffe(run, snapshot), own)
                start = int(state.iter)
                _check_caffe_files(run, start, overwrite)
                _clear_later(folder, start, overwrite)
            elif snapshot or resume:
                state, note, path = _restore(run, folder, snapshot)
                start = int(state.iter)
                # The one it started from may stay, unless it is another run's.
                home = os.path.dirname(os.path.abspath(path))
                is_own = home == os.path.abspath(folder)
                # What this very run wrote before it was cut is its own to replace.
                replace = is_own and note.get("caffe_prefix") == _caffe_prefix(run)
                _check_caffe_files(run, start, overwrite or replace)
                _clear_later(folder, start + is_own, overwrite)
            else:
                state = _add_own_stats(run, _start_state(run), own)
                _clear_later(folder, 0, overwrite)
            positions = note.get("positions", {})
            return _train(run, workdir, state, positions, own, poll)


def _train(
    run: runs.Run,
    workdir: str,
    state: TrainState,
    positions: checkpoint.Positions,
    own: Sequence[tuple[Params, Stats]],
    poll: Any,
) -> loop.Result:
    scalars = os.path.join(workdir, "scalars.jsonl")
    log.start_scalars(scalars, int(state.iter))
    snapshots = checkpoint.open_writer(
        os.path.join(workdir, "snapshots"), run.config.snapshot.keep
    )
    debug_info = run.solver.debug_info
    tests = tuple(
        loop.TestJob(
            net=fed.net,
            eval_step=runs.compile_eval_step(run, fed),
            zero_sums=runs.make_zero_sums(run, fed),
            own=own[index][0],
            feed=runs.open_device_feed(run, fed, positions.get(f"test{index}")),
            test_iter=fed.test_iter,
            probe=make_test_probe(fed.net, fed.augment) if debug_info else None,
        )
        for index, fed in enumerate(run.tests)
    )
    caffe = None
    if run.config.snapshot.caffe:
        caffe = caffe_snapshots.open_writer(
            run.train.net,
            run.solver,
            int(state.iter),
            with_state=not run.config.optimizer,
        )
    job = loop.TrainJob(
        solver=run.solver,
        max_iter=run.max_iter,
        net=run.train.net,
        train_step=runs.compile_train_step(run),
        loss_step=runs.compile_loss_step(run),
        feed=runs.open_device_feed(run, run.train, positions.get("train")),
        tests=tests,
        snapshots=snapshots,
        note=_make_note(run),
        scalars=log.open_scalars(scalars),
        blame=lambda *args: blame.name_first_non_finite(run, *args),
        caffe=caffe,
        probe=make_train_probe(run.train.net, run.train.augment, run.solver.iter_size)
        if debug_info
        else None,
    )
    try:
        return loop.train(job, state, poll)
    finally:
        job.feed.close()
        for test in tests:
            test.feed.close()
        if caffe is not None:
            caffe.close()
        snapshots.close()


def _start_state(run: runs.Run) -> TrainState:
    state = runs.make_state(run)
    files = _weight_files(run)
    if not files:
        return state
    params, stats = runs.load_weight_files(
        run.train.net, state.params, state.stats, files
    )
    whole = sharding.replicated(run.mesh)
    params, stats = jax.device_put((params, stats), whole)
    return state._replace(params=params, stats=stats)


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
    changes = checkpoint.environment_changes(note["environment"], run.mesh.size)
    for change in changes:
        logger.warning(
            "Since the snapshot, %s: results agree to float tolerance only", change
        )
    now = _make_note(run)
    if note.get("net") != now["net"]:
        logger.warning("Since the snapshot, the text of the training net has changed")
    before = note.get("config", {})
    for name, value in now["config"].items():
        if before.get(name, value) != value:
            logger.warning(
                "Since the snapshot, config.%s was %r, is %r", name, before[name], value
            )
    if _weight_files(run):
        logger.info("The snapshot has weights of its own; no weight file is read")
    return state, note, path


def _restore_caffe(run: runs.Run, path: str) -> TrainState:
    logger.info("Resuming from %s", path)
    state = restore_caffe(run.train.net, run.solver, runs.make_state(run), path)
    if _weight_files(run):
        logger.info("The snapshot has weights of its own; no weight file is read")
    return jax.device_put(state, sharding.replicated(run.mesh))


def _check_caffe_files(run: runs.Run, start: int, overwrite: bool) -> None:
    """Refuses a snapshot_prefix that does not do, or has files of an earlier run."""
    if run.config.snapshot.caffe:
        caffe_snapshots.check_size(run.train.net, run.solver)
        caffe_snapshots.refuse_existing(run.solver, start, run.max_iter, overwrite)
        caffe_snapshots.check_prefix(run.solver.snapshot_prefix)


def _caffe_prefix(run: runs.Run) -> str:
    return os.path.abspath(run.solver.snapshot_prefix)


def _make_note(run: runs.Run) -> dict[str, Any]:
    """Returns what snapshots say of the run, besides where its records stand."""
    return {
        "seed": run.seed,
        "solver_type": runs.rule_name(run),
        "net": _digest(run.train.net),
        "config": dict(run.config.data.items()),
        "environment": checkpoint.environment(run.mesh.size),
        "caffe_prefix": _caffe_prefix(run) if run.config.snapshot.caffe else "",
    }


def _digest(net: Net) -> str:
    text = "".join(format_message(node.layer) for node in net.graph.nodes)
    return hashlib.sha256(text.encode()).hexdigest()


def _weight_files(run: runs.Run) -> list[str]:
    named = run.config.weights.split(",") if run.config.weights else []
    files = named or [f for entry in run.solver.weights for f in entry.split(",")]
    return [file.strip() for file in files if file.strip()]


def _own_weights(run: runs.Run, fed: runs.FedNet) -> tuple[Params, Stats]:
    """Returns the blobs of layers that only a test net has, mostly none."""
    trained = {info.layer for info in run.train.net.params}
    if {info.layer for info in fed.net.params} <= trained:
        return {}, {}
    params, stats = jax.jit(fed.net.init)(jax.random.key(run.seed))
    params, stats = runs.load_weight_files(fed.net, params, stats, _weight_files(run))
    return (
        {name: blobs for name, blobs in params.items() if name not in trained},
        {name: blobs for name, blobs in stats.items() if name not in trained},
    )


def _add_own_stats(
    run: runs.Run, state: TrainState, own: Sequence[tuple[Params, Stats]]
) -> TrainState:
    """Returns the state with statistics of test nets alone as weight files say."""
    hidden = tuple(
        add_hidden(zeros, stats)
        for zeros, (_, stats) in zip(state.hidden, own, strict=True)
    )
    return state._replace(hidden=jax.device_put(hidden, sharding.replicated(run.mesh)))


def _log_circumstances(run: runs.Run, note: Note) -> None:
    device = jax.devices()[0]
    logger.info(
        "Using %d %s device(s) (%s), precision %s, seed %d",
        run.mesh.size,
        device.platform.upper(),
        device.device_kind,
        run.config.precision,
        run.seed,
    )
    if note and run.config.seed not in (-1, run.seed):
        logger.warning(
            "config.seed %d is not used: the run goes on with its own seed %d",
            run.config.seed,
            run.seed,
        )
    ignored = IGNORED if run.config.snapshot.caffe else {**IGNORED, **_ONLY_CAFFES}
    if run.config.optimizer:
        logger.info("Updates are those of %s", runs.rule_name(run))
        ignored = {**ignored, **_ONLY_TYPES}
    for field, what in ignored.items():
        if run.solver.HasField(field):
            logger.info("solver field %s: %s", field, what)


IGNORED = {
    "solver_mode": "JAX's own choice of device is used",
    "device_id": "config.devices says how many devices are used",
    "layer_wise_reduce": "the compiler decides when gradients are summed over devices",
}
"""Solver fields that change nothing here, and what happens instead."""

_ONLY_CAFFES = {
    "snapshot_format": "snapshots are Orbax folders, as config.snapshot.caffe is false",
    "snapshot_diff": "snapshots hold no gradients, as config.snapshot.caffe is false",
}


_ONLY_TYPES = dict.fromkeys(
    ("type", "momentum", "momentum2", "delta", "rms_decay"),
    "config.optimizer is used in its place",
)


def _refuse_optimizer(config: ml_collections.ConfigDict, snapshot: str) -> None:
    if config.optimizer:
        raise errors.ConfigError(
            errors.describe(
                snapshot,
                "has the history of a solver of Caffe, and config.optimizer has none",
                "--weights with its .caffemodel, or no config.optimizer",
            )
        )


def _refuse_later(folder: str, start: int, overwrite: bool) -> list[int]:
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


def _clear_later(folder: str, start: int, overwrite: bool) -> None:
    for step in _refuse_later(folder, start, overwrite):
        checkpoint.remove(folder, step)


if __name__ == "__main__":
    cli.run(main)
