"""Trains a net: `jaxcaffe train -solver SOLVER`, or with a config.

Follows the train command of caffe/tools/caffe.cpp.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence

import jax
import ml_collections

from jaxcaffe import checkpoint, cpu, errors, log, loop, signals
from jaxcaffe import run as runs
from jaxcaffe.caffe_files.resume import is_caffe_file
from jaxcaffe.caffe_files.solverstate import read_solver_state
from jaxcaffe.config import load_config, split_overrides
from jaxcaffe.datasets.prepare import prepare
from jaxcaffe.devices import parse_ids
from jaxcaffe.job import open_job
from jaxcaffe.log import logger
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.files import refuse_missing
from jaxcaffe.start import (
    Note,
    Start,
    check_caffe_files,
    refuse_later,
    start_from_caffe,
    start_from_snapshot,
    start_new,
)
from jaxcaffe.terminal import show_run
from jaxcaffe.tools import cli
from jaxcaffe.tools.state_flags import add_state_flags, read_state

DESCRIPTION = """\
Trains a net from a solver prototxt or a config.py.

  jaxcaffe train -solver solver.prototxt
  jaxcaffe train -solver solver.prototxt -weights start.caffemodel -gpu 0,1
  jaxcaffe train -solver solver.prototxt -snapshot lenet_iter_5000.solverstate
  jaxcaffe train configs/digits.py --resume --config.max_iter=2000

Any field of the config may be given as --config.FIELD=VALUE, also for a solver. The
exit status is 0 for a run that ended or was stopped by a signal, else 1."""


def main(argv: Sequence[str]) -> int:
    """Runs the command line; see --help. Returns the exit status.

    Raises:
      CaffeError: whatever the files, the data or the flags say that cannot be.
    """
    log.quieten_libraries()
    argv, overrides = split_overrides(argv)
    flags = _make_parser().parse(argv)
    config = load_config(_find_config(flags), overrides)
    _refuse_contradictions(flags, config)
    with config.unlocked():
        if flags.weights:
            config.weights = flags.weights
        if flags.gpu:
            parse_ids(flags.gpu, "--gpu")
            # As in Caffe, each device takes a batch of batch_size.
            config.device_ids, config.batch = flags.gpu, "per_device"
    cpu.tune_cpu()
    train(
        config,
        flags.resume,
        flags.snapshot,
        flags.overwrite,
        read_state(flags, caffe_pb2.TRAIN),
        flags.sigint_effect,
        flags.sighup_effect,
    )
    return 0


def _make_parser() -> cli.Parser:
    parser = cli.Parser("jaxcaffe train", DESCRIPTION)
    parser.argument("config", "a config.py or a solver prototxt", nargs="?")
    parser.flag("solver", "", "the solver prototxt, in place of CONFIG")
    parser.flag("snapshot", "", "go on from this folder or .solverstate[.h5]")
    parser.flag("weights", "", "start from these .caffemodel[.h5], comma-separated")
    parser.flag("resume", False, "go on from the newest snapshot in the workdir")
    parser.flag("overwrite", False, "remove or replace snapshots that are in the way")
    parser.flag(
        "gpu",
        "",
        "accelerators by number, comma-separated, or all; each takes a training batch "
        "of batch_size. By default all that there are, or the CPU, share one",
    )
    add_state_flags(parser)
    parser.flag("sigint_effect", "stop", "what SIGINT does", choices=signals.EFFECTS)
    parser.flag(
        "sighup_effect", "snapshot", "what SIGHUP does", choices=signals.EFFECTS
    )
    return parser


def _find_config(flags: Namespace) -> str:
    if flags.solver and flags.config:
        raise errors.ConfigError(
            errors.describe(
                f"--solver={flags.solver}",
                f'and "{flags.config}" are both given',
                "one of them; flags come with a hyphen in front",
            )
        )
    found = flags.solver or flags.config
    if not found:
        raise errors.ConfigError(
            errors.describe(
                "jaxcaffe train",
                "no solver is given",
                "-solver solver.prototxt, or a config.py",
            )
        )
    return found


def _refuse_contradictions(flags: Namespace, config: ml_collections.ConfigDict) -> None:
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
    if flags.gpu and config.devices:
        raise errors.ConfigError(
            errors.describe(
                f"--gpu={flags.gpu}", "and config.devices are both given", "one of them"
            )
        )


@errors.from_callbacks()
def train(
    config: ml_collections.ConfigDict,
    resume: bool = False,
    snapshot: str = "",
    overwrite: bool = False,
    asked: caffe_pb2.NetState | None = None,
    sigint_effect: str = "stop",
    sighup_effect: str = "snapshot",
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
      sigint_effect: one of signals.EFFECTS.
      sighup_effect: likewise.

    Raises:
      CaffeError: as `main`.
    """
    # Before anything asks for a device: precision decides how devices are started.
    runs.prepare_devices(config)
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
        is_new = not (snapshot or resume)
        run = runs.open_run(config, note.get("seed"), asked, is_new)
        _log_circumstances(run, note)
        if is_new:
            for path in run.weights:
                refuse_missing(path, errors.SnapshotError)
            # After what is wrong with the files it reads: that would be hidden.
            refuse_later(folder, 0, overwrite)
            check_caffe_files(run, 0, overwrite)
        with (
            checkpoint.hold_workdir(workdir),
            log.logging_to(os.path.join(workdir, "train.log"), memory),
            signals.watch_signals(sigint_effect, sighup_effect) as poll,
        ):
            checkpoint.open_folder(folder)
            start: Start
            if from_caffe:
                start = start_from_caffe(run, folder, snapshot, overwrite)
            elif is_new:
                start = start_new(run, folder, overwrite)
            else:
                start = start_from_snapshot(run, folder, snapshot, overwrite)
            with open_job(run, workdir, start) as job, show_run(job.view):
                result = loop.train(job, start.state, poll)
            logger.info("Optimization Done.")
            return result


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
    "device_id": "--gpu says which devices are used",
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


if __name__ == "__main__":
    cli.run(main)
