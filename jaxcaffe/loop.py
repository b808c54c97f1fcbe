"""The training loop: test, step, display, snapshot, in Caffe's order.

Follows Solve, Step, TestAll and Test of caffe/src/caffe/solver.cpp.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp

from jaxcaffe import checkpoint, errors, log, step
from jaxcaffe.log import logger
from jaxcaffe.prefetch import DeviceFeed
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.signals import Requests
from jaxcaffe.spec import Blobs, Net, Params, Stats
from jaxcaffe.state import TrainState, smoothed_loss

Outputs = Mapping[str, np.ndarray]

NOTHING_ASKED = Requests(snapshot=False, stop=False)


class TestJob(NamedTuple):
    """One test net, compiled, with its records."""

    net: Net
    eval_step: Callable[[Params, Stats, Blobs, Blobs, jax.Array], Blobs]
    own: tuple[Params, Stats]  # weights of layers that the train net lacks
    feed: DeviceFeed
    test_iter: int


class TrainJob(NamedTuple):
    """Everything that the loop calls."""

    solver: caffe_pb2.SolverParameter
    max_iter: int
    net: Net
    train_step: Callable[[TrainState, Blobs], tuple[TrainState, Blobs]]
    loss_step: Callable[[TrainState, Blobs], jax.Array]
    schedule: optax.Schedule
    feed: DeviceFeed
    tests: tuple[TestJob, ...]
    snapshots: ocp.CheckpointManager
    seed: int
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
      NonFiniteError: a loss was not finite; the last good state was snapshotted.
      SnapshotError: a snapshot could not be written.
    """
    solver = job.solver
    iteration = int(state.iter)
    scores: tuple[Outputs, ...] = ()
    saved = -1  # iteration of the last snapshot
    stopped = False
    logger.info("Solving %s", job.net.graph.name)
    logger.info("Learning Rate Policy: %s", solver.lr_policy)
    shown_at, shown_iteration = time.perf_counter(), iteration

    while iteration < job.max_iter:
        if _due(iteration, solver.test_interval) and (
            iteration > 0 or solver.test_initialization
        ):
            _check_finite(job, state, iteration)
            found, asked = test_all(job, state, iteration, poll)
            scores = found or scores
            if asked.snapshot and not asked.stop:
                saved = _snapshot(job, state)
            if asked.stop:
                stopped = True
                break
        state, outputs = job.train_step(state, next(job.feed))
        if _due(iteration, solver.display):
            _check_finite(job, state, iteration + 1)
            now = time.perf_counter()
            _display(job, state, outputs, iteration, now - shown_at, shown_iteration)
            shown_at, shown_iteration = now, iteration
        iteration += 1
        asked = poll()
        if _due(iteration, solver.snapshot) or (asked.snapshot and not asked.stop):
            _check_finite(job, state, iteration)
            saved = _snapshot(job, state)
        if asked.stop:
            stopped = True
            break

    _check_finite(job, state, iteration)
    if solver.snapshot_after_train and saved != iteration:
        _snapshot(job, state)
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
        flat = {f"test{index}/{n}": _plain(v) for n, v in means.items()}
        log.write_scalars(job.scalars, iteration, **flat)
        scores.append(means)
    return tuple(scores), asked


def loss_weights(net: Net) -> dict[str, float]:
    """Returns the loss weight of each blob that counts towards the loss."""
    return {
        top: weight
        for node in net.graph.nodes
        for top, weight in zip(node.tops, node.loss_weights, strict=True)
        if weight
    }


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
    sums = step.zero_sums(test.net)
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


def _display(
    job: TrainJob,
    state: TrainState,
    outputs: Blobs,
    iteration: int,
    seconds: float,
    shown_iteration: int,
) -> None:
    values: Outputs
    loss, values, rate = jax.device_get(
        (smoothed_loss(state), outputs, job.schedule(iteration))
    )
    done = iteration - shown_iteration
    speed = done / seconds if seconds > 0 else 0.0
    line = log.iteration_line(iteration, speed, seconds, job.solver.display, loss)
    logger.info("%s", line)
    for line in log.output_lines("Train", values, loss_weights(job.net)):
        logger.info("%s", line)
    logger.info("Iteration %d, lr = %g", iteration, rate)
    flat = {f"train/{name}": _plain(value) for name, value in values.items()}
    log.write_scalars(job.scalars, iteration, loss=float(loss), lr=float(rate), **flat)


def _snapshot(job: TrainJob, state: TrainState) -> int:
    positions = {"train": job.feed.positions}
    for index, test in enumerate(job.tests):
        positions[f"test{index}"] = test.feed.positions
    path = checkpoint.save(job.snapshots, state, positions, job.seed)
    logger.info("Snapshotting to %s", path)
    return int(state.iter)


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


def _plain(value: np.ndarray) -> float | list[float]:
    return value.tolist()
