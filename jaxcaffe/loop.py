"""The training loop: test, step, display, snapshot, in Caffe's order.

Follows Solve, Step, TestAll and Test of caffe/src/caffe/solver.cpp.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from jaxcaffe import checkpoint, errors, log
from jaxcaffe.caffe_files.snapshots import Writer as CaffeWriter
from jaxcaffe.log import logger
from jaxcaffe.prefetch import DeviceFeed
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.signals import Requests
from jaxcaffe.spec import Blobs, Net, Params, Stats
from jaxcaffe.state import TrainState, add_hidden, find_non_finite
from jaxcaffe.step import StepReport

Outputs = Mapping[str, np.ndarray]

NOTHING_ASKED = Requests(snapshot=False, stop=False)

# A step's verdict on its loss is looked at this many iterations later, when it is long
# known, so that looking costs the devices no pause.
_LOOK_BACK = 50


class TestJob(NamedTuple):
    """One test net, compiled, with its records."""

    net: Net
    eval_step: Callable[..., tuple[Blobs, Stats]]  # see step.make_eval_step
    zero_sums: Callable[[], Blobs]
    own: Params  # weights of layers that the train net lacks
    feed: DeviceFeed
    test_iter: int
    # (params, stats, batch, key) of a batch; logs what debug_info asks for
    probe: Callable[[Params, Stats, Blobs, jax.Array], None] | None = None


class TrainJob(NamedTuple):
    """Everything that the loop calls."""

    solver: caffe_pb2.SolverParameter
    max_iter: int
    net: Net
    train_step: Callable[[TrainState, Blobs], tuple[TrainState, StepReport]]
    loss_step: Callable[[TrainState, Blobs], tuple[jax.Array, Stats]]
    feed: DeviceFeed
    tests: tuple[TestJob, ...]
    snapshots: checkpoint.Writer
    note: Mapping[str, object]  # what every snapshot says about the run
    scalars: log.Scalars  # where curves go to
    # (state of a bad iteration, positions now, iteration now) -> the layer to blame
    blame: Callable[[TrainState, Mapping[str, int], int], str]
    # logs what debug_info asks for, before the step that takes the same arguments
    probe: Callable[[TrainState, Blobs], None] | None = None
    caffe: CaffeWriter | None = None  # of Caffe's own snapshot files


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
      SnapshotError: the last snapshot, or the curves, could not be written. An earlier
        one is logged as an error and costs the run nothing else.
    """
    solver = job.solver
    iteration = int(state.iter)
    scores: tuple[Outputs, ...] = ()
    saved = -1  # iteration of the last snapshot
    stopped = False
    # The test nets' records, before a test that was cut short; `state` then still has
    # the hidden states from before it.
    cursors = None
    earlier: StepReport | None = None
    updates: Params | None = None  # of the last step, for snapshot_diff
    logger.info("Solving %s", job.net.graph.name)
    logger.info("Learning Rate Policy: %s", solver.lr_policy)
    shown_at, shown_iteration = time.perf_counter(), iteration

    while iteration < job.max_iter:
        if _due(iteration, solver.test_interval) and (
            iteration > 0 or solver.test_initialization
        ):
            _check_finite(job, state, iteration)
            cursors = _test_positions(job)
            found, tested, asked = test_all(job, state, iteration, poll)
            scores = found or scores
            if asked.snapshot and not asked.stop:
                saved = _snapshot(job, state, iteration, cursors, updates)
            if asked.stop:
                stopped = True
                break
            state = tested
        try:
            batch = next(job.feed)
        except errors.DataError:
            if saved != iteration and iteration > 0:
                _snapshot(job, state, iteration, _test_positions(job), updates)
            _wait(job)
            job.scalars.flush()
            raise
        if job.probe is not None and _due(iteration, solver.display):
            job.probe(state, batch)
        state, report = job.train_step(state, batch)
        updates = report.updates
        if _due(iteration, solver.display):
            now = time.perf_counter()
            shown = jax.device_get(report)
            if not shown.finite:
                _check_finite(job, state, iteration + 1)
            _display(job, shown, iteration, now - shown_at, shown_iteration)
            shown_at, shown_iteration = now, iteration
        iteration += 1
        if _due(iteration, _LOOK_BACK):
            if earlier is not None and not bool(earlier.finite):
                _check_finite(job, state, iteration)
            earlier = report
        asked = poll()
        cursors = None
        if _due(iteration, solver.snapshot) or (asked.snapshot and not asked.stop):
            saved = _snapshot(job, state, iteration, _test_positions(job), updates)
        if asked.stop:
            stopped = True
            break

    _check_finite(job, state, iteration)
    if solver.snapshot_after_train and saved != iteration:
        _snapshot(job, state, iteration, cursors or _test_positions(job), updates)
    if stopped:
        logger.info("Optimization stopped early.")
    else:
        if _due(iteration, solver.display):
            # One more forward pass shows the loss after the last update.
            loss, stats = job.loss_step(state, next(job.feed))
            logger.info("Iteration %d, loss = %g", iteration, float(loss))
            # BatchNorm has counted it, and the last test sees that, as in Caffe.
            state = state._replace(stats=stats)
        if _due(iteration, solver.test_interval):
            found, state, _ = test_all(job, state, iteration, poll)
            scores = found or scores
        logger.info("Optimization Done.")
    failure = _wait(job) or job.scalars.flush()
    if failure is not None:
        raise failure
    return Result(state, scores, stopped)


def test_all(
    job: TrainJob,
    state: TrainState,
    iteration: int,
    poll: Callable[[], Requests],
) -> tuple[tuple[Outputs, ...], TrainState, Requests]:
    """Tests every test net; outputs are means over its test_iter batches.

    Returns:
      The outputs per test net; the state with what the test nets remember; and what
      signals asked for meanwhile. If they asked to stop, no outputs, and the state as
      it was.
    """
    scores: list[Outputs] = []
    hidden: list[Stats] = []
    asked = NOTHING_ASKED
    for index, test in enumerate(job.tests):
        logger.info("Iteration %d, Testing net (#%d)", iteration, index)
        if test.test_iter == 0:  # nothing was measured, so there is nothing to show
            scores.append({})
            hidden.append(state.hidden[index])
            continue
        sums, remembered, asked = run_test(test, index, state, iteration, poll, asked)
        if asked.stop:
            logger.info("Test interrupted.")
            return (), state, asked
        hidden.append(remembered)
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
        job.scalars.write(iteration, **flat)
        scores.append(means)
    return tuple(scores), state._replace(hidden=tuple(hidden)), asked


def run_test(
    test: TestJob,
    index: int,
    state: TrainState,
    iteration: int,
    poll: Callable[[], Requests],
    asked: Requests = NOTHING_ASKED,
) -> tuple[Outputs, Stats, Requests]:
    """Runs one test net over test_iter batches.

    Args:
      test: the net and its records, which go on where the last test ended.
      index: its number, which random layers' keys depend on.
      state: its params, stats and hidden states are used, not changed.
      iteration: updates done.
      poll: looked at between batches.
      asked: what signals have asked for so far.

    Returns:
      For each output, and under "" for the total loss, the sum over the batches, as
      far as they were run; what the net remembers of them; and what signals have asked
      for.

    Source: caffe/src/caffe/solver.cpp, Test. Differs: none.
    """
    # Far from the keys of training iterations, which are folded from 0 upwards.
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), 2**31 - 1 - index)
    key = jax.random.fold_in(key, iteration)
    params = {**test.own, **state.params}
    hidden = state.hidden[index]
    sums = test.zero_sums()
    for number in range(test.test_iter):
        now = poll()
        asked = Requests(asked.snapshot or now.snapshot, asked.stop or now.stop)
        if asked.stop:
            break
        batch = next(test.feed)
        batch_key = jax.random.fold_in(key, number)
        if test.probe is not None:
            test.probe(params, add_hidden(state.stats, hidden), batch, batch_key)
        sums, hidden = test.eval_step(
            params, state.stats, hidden, sums, batch, batch_key
        )
    return jax.device_get(sums), hidden, asked


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
    job.scalars.write(iteration, loss=loss, lr=rate, **flat)


def _test_positions(job: TrainJob) -> dict[str, Mapping[str, int]]:
    return {f"test{index}": test.feed.positions for index, test in enumerate(job.tests)}


def _snapshot(
    job: TrainJob,
    state: TrainState,
    iteration: int,
    cursors: Mapping[str, Mapping[str, int]],
    updates: Params | None,
) -> int:
    """Starts a snapshot, of a state whose every weight is a finite number."""
    _check_finite(job, state, iteration)
    bad = find_non_finite(state)
    if bad is not None:
        _wait(job)
        raise errors.NonFiniteError(
            errors.describe(
                f"iteration {iteration}",
                f"{bad} holds values that are not finite numbers, though no loss did; "
                "no snapshot of them was taken",
                "a smaller base_lr, clip_gradients, or a look at the layers before it",
            )
        )
    positions = {"train": job.feed.positions, **cursors}
    copied = checkpoint.copy_state(state)
    job.snapshots.save(copied, {**job.note, "positions": positions})
    if job.caffe is not None:
        job.caffe.save(copied, updates)
    return iteration


def _wait(job: TrainJob) -> errors.SnapshotError | None:
    """Returns, once nothing is being written, why the last snapshot is not there."""
    failure = job.snapshots.wait()
    caffe_failure = job.caffe.wait() if job.caffe is not None else None
    return failure or caffe_failure


def _check_finite(job: TrainJob, state: TrainState, iteration: int) -> None:
    if bool(state.finite):
        return
    _wait(job)
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
