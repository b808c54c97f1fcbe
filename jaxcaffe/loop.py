"""The training loop: test, step, display, snapshot, in Caffe's order.

Follows Solve, Step, TestAll and Test of caffe/src/caffe/solver.cpp.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxcaffe import checkpoint, errors, log
from jaxcaffe.log import logger
from jaxcaffe.prefetch import DeviceFeed
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.signals import Requests
from jaxcaffe.spec import Blobs, Net, Params, Stats
from jaxcaffe.state import TrainState
from jaxcaffe.step import StepReport

Outputs = Mapping[str, np.ndarray]

NOTHING_ASKED = Requests(snapshot=False, stop=False)

# A step's verdict on its loss is looked at this many iterations later, when it is long
# known, so that looking costs the devices no pause.
_LOOK_BACK = 50


class TestJob(NamedTuple):
    """One test net, compiled, with its records."""

    net: Net
    eval_step: Callable[[Params, Stats, Blobs, Blobs, jax.Array], Blobs]
    zero_sums: Callable[[], Blobs]
    own: tuple[Params, Stats]  # weights of layers that the train net lacks
    feed: DeviceFeed
    test_iter: int


class TrainJob(NamedTuple):
    """Everything that the loop calls."""

    solver: caffe_pb2.SolverParameter
    max_iter: int
    net: Net
    train_step: Callable[[TrainState, Blobs], tuple[TrainState, StepReport]]
    loss_step: Callable[[TrainState, Blobs], jax.Array]
    feed: DeviceFeed
    tests: tuple[TestJob, ...]
    snapshots: ocp.CheckpointManager
    note: Mapping[str, object]  # what every snapshot says about the run
    scalars: str  # path of the .jsonl file that curves go to
    # (state of a bad iteration, positions now, iteration now) -> the layer to blame
    blame: Callable[[TrainState, Mapping[str, int], int], str]


class Result(NamedTuple):
    """How training ended."""

    state: TrainState
    scores: tuple[Outputs, ...]  # of the last test, per test net
    stopped: bool  # by a signal


def train(job: TrainJob, state: TrainState, poll: Callable[[], Requests]) -> Result:
    """Trains from `state` to max_iter, or until a signal asks to stop.

    Args:
      job: see TrainJob.
      state: from init_state or a snapshot; donated.
      poll: from signals.watch_signals.

    Raises:
      NonFiniteError: a loss or a weight is not a finite number.
      DataError: a record cannot be used; a snapshot was taken before.
      SnapshotError: a snapshot could not be written.
    """
    solver = job.solver
    iteration = int(state.iter)
    scores: tuple[Outputs, ...] = ()
    saved = -1  # iteration of the last snapshot
    stopped = False
    cursors = None  # where the tests' records stood before a test that was cut short
    earlier: StepReport | None = None
    logger.info("Solving %s", job.net.graph.name)
    logger.info("Learning Rate Policy: %s", solver.lr_policy)
    shown_at, shown_iteration = time.perf_counter(), iteration

    while iteration < job.max_iter:
        if _due(iteration, solver.test_interval) and (
            iteration > 0 or solver.test_initialization
        ):
            _check_finite(job, state, iteration)
            cursors = _test_positions(job)
            found, asked = test_all(job, state, iteration, poll)
            scores = found or scores
            if asked.snapshot and not asked.stop:
                saved = _snapshot(job, state, iteration, cursors)
            if asked.stop:
                stopped = True
                break
        try:
            batch = next(job.feed)
        except errors.DataError:
            if saved != iteration and iteration > 0:
                _snapshot(job, state, iteration, _test_positions(job))
            checkpoint.wait(job.snapshots)
            raise
        state, report = job.train_step(state, batch)
        if _due(iteration, solver.display):
            now = time.perf_counter()
            shown = jax.device_get(report)
            if not shown.finite:
                _check_finite(job, state, iteration + 1)
            _display(job, shown, iteration, now - shown_at, shown_iteration)
            shown_at, shown_iteration = now, iteration
            checkpoint.check(job.snapshots)
        iteration += 1
        if _due(iteration, _LOOK_BACK):
            if earlier is not None and not bool(earlier.finite):
                _check_finite(job, state, iteration)
            earlier = report
        asked = poll()
        cursors = None
        if _due(iteration, solver.snapshot) or (asked.snapshot and not asked.stop):
            saved = _snapshot(job, state, iteration, _test_positions(job))
        if asked.stop:
            stopped = True
            break

    _check_finite(job, state, iteration)
    if solver.snapshot_after_train and saved != iteration:
        _snapshot(job, state, iteration, cursors or _test_positions(job))
    if stopped:
        logger.info("Optimization stopped early.")
    else:
        if _due(iteration, solver.display):
            # One more forward pass shows the loss after the last update.
            loss = job.loss_step(state, next(job.feed))
            logger.info("Iteration %d, loss = %g", iteration, float(loss))
        if _due(iteration, solver.test_interval):
            found, _ = test_all(job, state, iteration, poll)
            scores = found or scores
        logger.info("Optimization Done.")
    checkpoint.wait(job.snapshots)
    return Result(state, scores, stopped)


def test_all(
    job: TrainJob,
    state: TrainState,
    iteration: int,
    poll: Callable[[], Requests],
) -> tuple[tuple[Outputs, ...], Requests]:
    """Tests every test net; outputs are means over its test_iter batches.

    Returns:
      The outputs per test net, empty if a signal asked to stop; and what signals
      asked for meanwhile.
    """
    scores = []
    asked = NOTHING_ASKED
    for index, test in enumerate(job.tests):
        logger.info("Iteration %d, Testing net (#%d)", iteration, index)
        sums, asked = run_test(test, index, state, iteration, poll, asked)
        if asked.stop:
            logger.info("Test interrupted.")
            return (), asked
        means = {n: np.asarray(s) / test.test_iter for n, s in sums.items()}
        loss = means.pop("")
        if job.solver.test_compute_loss:
            logger.info("Test loss: %g", loss)
        weights = loss_weights(test.net)
        for line in log.output_lines("Test", means, weights):
            logger.info("%s", line)
        for line in log.score_lines(means):
            logger.info("%s", line)
        flat = {f"test{index}/{name}": v.tolist() for name, v in means.items()}
        log.write_scalars(job.scalars, iteration, **flat)
        scores.append(means)
    return tuple(scores), asked


def run_test(
    test: TestJob,
    index: int,
    state: TrainState,
    iteration: int,
    poll: Callable[[], Requests],
    asked: Requests = NOTHING_ASKED,
) -> tuple[Outputs, Requests]:
    """Runs one test net over test_iter batches.

    Args:
      test: the net and its records, which go on where the last test ended.
      index: its number, which random layers' keys depend on.
      state: its params and stats are used, not changed.
      iteration: updates done.
      poll: looked at between batches.
      asked: what signals have asked for so far.

    Returns:
      For each output, and under "" for the total loss, the sum over the batches, as
      far as they were run; and what signals have asked for.
    """
    # Far from the keys of training iterations, which are folded from 0 upwards.
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), 2**31 - 1 - index)
    key = jax.random.fold_in(key, iteration)
    params, stats = (
        {**own, **shared}
        for own, shared in zip(test.own, (state.params, state.stats), strict=True)
    )
    sums = test.zero_sums()
    for number in range(test.test_iter):
        now = poll()
        asked = Requests(asked.snapshot or now.snapshot, asked.stop or now.stop)
        if asked.stop:
            break
        batch = next(test.feed)
        sums = test.eval_step(
            params, stats, sums, batch, jax.random.fold_in(key, number)
        )
    return jax.device_get(sums), asked


def loss_weights(net: Net) -> dict[str, float]:
    """Returns the loss weight of each blob that counts towards the loss."""
    return {
        top: weight
        for node in net.graph.nodes
        for top, weight in zip(node.tops, node.loss_weights, strict=True)
        if weight
    }


def _display(
    job: TrainJob,
    shown: StepReport,
    iteration: int,
    seconds: float,
    shown_iteration: int,
) -> None:
    done = iteration - shown_iteration
    speed = done / seconds if seconds > 0 else 0.0
    loss, rate = float(shown.loss), float(shown.rate)
    line = log.iteration_line(iteration, speed, seconds, job.solver.display, loss)
    logger.info("%s", line)
    outputs: Outputs = {name: np.asarray(v) for name, v in shown.outputs.items()}
    for line in log.output_lines("Train", outputs, loss_weights(job.net)):
        logger.info("%s", line)
    logger.info("Iteration %d, lr = %g", iteration, rate)
    flat = {f"train/{name}": value.tolist() for name, value in outputs.items()}
    log.write_scalars(job.scalars, iteration, loss=loss, lr=rate, **flat)


def _test_positions(job: TrainJob) -> dict[str, Mapping[str, int]]:
    return {f"test{index}": test.feed.positions for index, test in enumerate(job.tests)}


def _snapshot(
    job: TrainJob,
    state: TrainState,
    iteration: int,
    cursors: Mapping[str, Mapping[str, int]],
) -> int:
    """Starts a snapshot, of a state whose every weight is a finite number."""
    _check_finite(job, state, iteration)
    bad = checkpoint.find_non_finite(state)
    if bad is not None:
        checkpoint.wait(job.snapshots)
        raise errors.NonFiniteError(
            errors.describe(
                f"iteration {iteration}",
                f"{bad} holds values that are not finite numbers, though no loss did; "
                "no snapshot of them was taken",
                "a smaller base_lr, clip_gradients, or a look at the layers before it",
            )
        )
    positions = {"train": job.feed.positions, **cursors}
    path = checkpoint.save(job.snapshots, state, {**job.note, "positions": positions})
    logger.info("Snapshotting to %s", path)
    return iteration


def _check_finite(job: TrainJob, state: TrainState, iteration: int) -> None:
    if bool(state.finite):
        return
    checkpoint.wait(job.snapshots)
    first = job.blame(state, job.feed.positions, iteration)
    raise errors.NonFiniteError(
        errors.describe(
            f"iteration {int(state.iter)}",
            f"the loss is not a finite number; first seen in {first}",
            "a smaller base_lr, clip_gradients, or a look at the data and fillers; "
            "snapshots taken before are whole",
        )
    )


def _due(iteration: int, interval: int) -> bool:
    return interval > 0 and iteration % interval == 0
