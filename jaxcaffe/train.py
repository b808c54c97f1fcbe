"""Trains a net: `python -m jaxcaffe.train CONFIG`.

CONFIG is a config.py with get_config(), or a solver prototxt. Follows the train
command of caffe/tools/caffe.cpp.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections

from jaxcaffe import checkpoint, errors, log, loop, sharding, signals
from jaxcaffe import run as runs
from jaxcaffe.config import load_config, split_overrides
from jaxcaffe.datasets.digits import prepare_digits
from jaxcaffe.log import logger
from jaxcaffe.spec import Params, Stats
from jaxcaffe.state import TrainState
from jaxcaffe.tools import cli

PREPARE: dict[str, Callable[[], None]] = {
    "digits": lambda: prepare_digits("data/digits")
}
"""Data sets that a config can have made before its first run."""

DESCRIPTION = """\
Trains a net from a config.py or a solver prototxt.

  python -m jaxcaffe.train configs/digits.py
  python -m jaxcaffe.train solver.prototxt --weights=start.caffemodel
  python -m jaxcaffe.train configs/digits.py --resume --config.max_iter=2000

Any field of the config may be given as --config.FIELD=VALUE. SIGINT and SIGTERM
snapshot and stop, SIGHUP snapshots and goes on."""


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
    parser.flag("snapshot", "", "go on from this snapshot, a folder")
    parser.flag("weights", "", "start from these .caffemodel files, comma-separated")
    parser.flag(
        "overwrite", False, "remove snapshots of the workdir that are in the way"
    )
    flags = parser.parse(argv)
    config = load_config(flags.config, overrides)
    if flags.weights:
        with config.unlocked():
            config.weights = flags.weights
    train(config, flags.resume, flags.snapshot, flags.overwrite)
    return 0


def train(
    config: ml_collections.ConfigDict,
    resume: bool = False,
    snapshot: str = "",
    overwrite: bool = False,
) -> loop.Result:
    """Trains as a config says.

    Args:
      config: from config.load_config.
      resume: go on from the newest whole snapshot in the workdir.
      snapshot: go on from this one; "" for none.
      overwrite: snapshots in the workdir that the run would write again are removed.

    Raises:
      CaffeError: as `main`.
    """
    if (resume or snapshot) and config.weights:
        raise errors.ConfigError(
            errors.describe(
                "--weights",
                "cannot be combined with a snapshot, which has weights of its own",
                "--weights to start anew, or --snapshot or --resume to go on",
            )
        )
    if resume and snapshot:
        raise errors.ConfigError(
            errors.describe("--resume", "and --snapshot are both given", "one of them")
        )
    if config.prepare:
        PREPARE[config.prepare]()
    workdir = runs.find_workdir(config)
    folder = os.path.join(workdir, "snapshots")
    if not (resume or snapshot):
        _clear_way(folder, 0, overwrite)
    with (
        log.logging_to(os.path.join(workdir, "train.log")),
        signals.watch_signals() as poll,
    ):
        if resume:
            note = checkpoint.read_note(checkpoint.latest(folder))
        else:
            note = checkpoint.read_note(snapshot) if snapshot else {}
        run = runs.open_run(config, note.get("seed"))
        _log_circumstances(run)
        if resume or snapshot:
            state, note = _restore(run, folder, snapshot)
            _clear_way(folder, int(state.iter) + 1, overwrite)
        else:
            state = runs.make_state(run)
        job, state = _make_job(run, folder, state, note.get("positions", {}))
        try:
            return loop.train(job, state, poll)
        finally:
            job.feed.close()
            for test in job.tests:
                test.feed.close()
            job.snapshots.close()


def _restore(
    run: runs.Run, folder: str, snapshot: str
) -> tuple[TrainState, dict[str, Any]]:
    like = runs.state_struct(run)
    whole = sharding.replicated(run.mesh)
    if snapshot:
        path = snapshot
        state, note = checkpoint.restore(path, like, whole)
    else:
        state, note, path = checkpoint.restore_latest(folder, like, whole)
    logger.info("Resuming from %s", path)
    for change in checkpoint.environment_changes(note["environment"], run.mesh.size):
        logger.warning(
            "Since the snapshot, %s: results agree to float tolerance only", change
        )
    return state, note


def _make_job(
    run: runs.Run,
    folder: str,
    state: TrainState,
    positions: checkpoint.Positions,
) -> tuple[loop.TrainJob, TrainState]:
    start = int(state.iter)
    weights = [] if start else _weight_files(run)
    if weights:
        loaded = runs.load_weight_files(
            run.train.net, state.params, state.stats, weights
        )
        whole = sharding.replicated(run.mesh)
        state = state._replace(
            params=jax.device_put(loaded[0], whole),
            stats=jax.device_put(loaded[1], whole),
        )
    tests = tuple(
        loop.TestJob(
            net=fed.net,
            eval_step=runs.compile_eval_step(run, fed),
            own=_own_weights(run, fed, weights),
            feed=runs.open_device_feed(run, fed, positions.get(f"test{index}")),
            test_iter=fed.test_iter,
        )
        for index, fed in enumerate(run.tests)
    )
    scalars = os.path.join(os.path.dirname(folder), "scalars.jsonl")
    log.drop_scalars_from(scalars, start)
    job = loop.TrainJob(
        solver=run.solver,
        max_iter=run.max_iter,
        net=run.train.net,
        train_step=runs.compile_train_step(run),
        loss_step=runs.compile_loss_step(run),
        schedule=run.schedule,
        feed=runs.open_device_feed(run, run.train, positions.get("train")),
        tests=tests,
        snapshots=checkpoint.open_snapshots(folder, run.config.snapshot.keep),
        seed=run.seed,
        scalars=scalars,
        blame=lambda *args: runs.name_first_non_finite(run, *args),
    )
    return job, state


def _weight_files(run: runs.Run) -> list[str]:
    named = run.config.weights.split(",") if run.config.weights else []
    files = named or [f for entry in run.solver.weights for f in entry.split(",")]
    return [file.strip() for file in files if file.strip()]


def _own_weights(
    run: runs.Run, fed: runs.FedNet, weights: list[str]
) -> tuple[Params, Stats]:
    """Returns the blobs of layers that only a test net has, mostly none."""
    trained = {info.layer for info in run.train.net.params}

    if {info.layer for info in fed.net.params} <= trained:
        return {}, {}
    params, stats = jax.jit(fed.net.init)(jax.random.key(run.seed))
    if weights:
        params, stats = runs.load_weight_files(fed.net, params, stats, weights)
    return (
        {name: blobs for name, blobs in params.items() if name not in trained},
        {name: blobs for name, blobs in stats.items() if name not in trained},
    )


def _log_circumstances(run: runs.Run) -> None:
    device = jax.devices()[0]
    logger.info(
        "Using %d %s device(s) (%s), precision %s, seed %d",
        run.mesh.size,
        device.platform.upper(),
        device.device_kind,
        run.config.precision,
        run.seed,
    )
    for feed in run.train.feeds:
        logger.info(
            "Training batch of layer %s: %d records over all devices, %d per device%s",
            feed.name,
            feed.batch_size,
            feed.batch_size // run.mesh.size,
            f", {run.solver.iter_size} batches per iteration"
            if run.solver.iter_size > 1
            else "",
        )


def _clear_way(folder: str, start: int, overwrite: bool) -> None:
    """Refuses, or removes, snapshots of iterations from `start` on."""
    later = [step for step in checkpoint.steps(folder) if step >= start]
    if not later:
        return
    if not overwrite:
        raise errors.ConfigError(
            errors.describe(
                folder,
                f"holds a snapshot of iteration {later[-1]}, which this run would "
                "overwrite",
                "--resume to go on from it, --overwrite to remove it, or another "
                "--config.workdir",
            )
        )
    for step in later:
        shutil.rmtree(os.path.join(folder, str(step)))


if __name__ == "__main__":
    cli.run(main)
