"""The training loop: test, step, display, snapshot, in Caffe's order.

Follows Solve, Step and TestAll of caffe/src/caffe/solver.cpp.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np

from jaxcaffe import checkpoint, display, errors, log
from jaxcaffe.caffe_files.snapshots import Writer as CaffeWriter
from jaxcaffe.display import Outputs
from jaxcaffe.events import count_until_event, has_passed, is_due
from jaxcaffe.grouping import Advance
from jaxcaffe.log import logger
from jaxcaffe.prefetch import DeviceFeed
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.run_view import RunView
from jaxcaffe.signals import Requests
from jaxcaffe.spec import Blobs, Net, Params, Stats
from jaxcaffe.state import TrainState, find_non_finite
from jaxcaffe.testing import TestJob, run_test

# A step's verdict on its loss is looked at this many iterations later, when it is long
# known, so that looking costs the devices no pause.
_LOOK_BACK = 50


class TrainJob(NamedTuple):
    """Everything that the loop calls."""

    solver: caffe_pb2.SolverParameter
    max_iter: int
    net: Net
    advance: Advance  # runs iterations
    steps_per_dispatch: int  # how many at once, at most
    loss_step: Callable[[TrainState, Blobs], tuple[jax.Array, Stats]]
    feed: DeviceFeed
    tests: tuple[TestJob, ...]
    snapshots: checkpoint.Writer
    note: Mapping[str, object]  # what every snapshot says about the run
    scalars: log.Scalars  # where curves go to
    view: RunView  # what can be seen from outside
    # (state of a bad iteration, positions now, iteration now) -> the layer to blame
    blame: Callable[[TrainState, Mapping[str, int], int], str]
    # logs what debug_info asks for, before the step that takes the same arguments
    probe: Callable[[TrainState, Blobs], None] | None = None
    caffe: CaffeWriter | None = None  # of Caffe's own snapshot files
    # (iteration, weights) -> nothing; draws the weights, after each test
    draw: Callable[[int, Params], None] | None = None


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
    earlier: jax.Array | None = None  # whether all was finite, _LOOK_BACK ago
    updates: Params | None = None  # of the last step, for snapshot_diff
    lines = display.UpdateLines(solver)

    def save(positions: Mapping[str, Mapping[str, int]]) -> None:
        nonlocal saved
        lines.flush()
        if saved != iteration:
            _snapshot(job, state, iteration, positions, updates)
            saved = iteration

    @contextlib.contextmanager
    def keeping_progress() -> Iterator[None]:
        positions = _test_positions(job)
        try:
            yield
        except errors.DataError:
            if iteration > 0:
                save(positions)
            _wait(job)
            job.scalars.flush()
            raise

    logger.info("Starting Optimization")
    logger.info("Solving %s", job.net.graph.name)
    logger.info("Learning Rate Policy: %s", solver.lr_policy)
    shown_at, shown_iteration = time.perf_counter(), iteration

    while iteration < job.max_iter:
        job.view.iteration = iteration
        if is_due(iteration, solver.test_interval) and (
            iteration > 0 or solver.test_initialization
        ):
            lines.flush()
            _check_finite(job, state, iteration)
            cursors = _test_positions(job)
            save_now = functools.partial(save, cursors)
            with keeping_progress():
                found, tested = test_all(job, state, iteration, poll, save_now)
            if found is None:
                stopped = True
                break
            scores, state = found, tested
        with keeping_progress():
            batches = _take_batches(job, iteration)
        if job.probe is not None and is_due(iteration, solver.display):
            job.probe(state, batches[0])
        state, report = job.advance(state, batches)
        updates = report.updates
        if job.steps_per_dispatch > 1:
            job.feed.fill()  # while these iterations go on
        first, iteration = iteration, iteration + len(batches)
        for number in range(first, iteration - 1):
            lines.note_rate(number)
            lines.note_norm(report.norm, number - first)
        last = iteration - 1
        if is_due(last, solver.display):
            lines.flush()
            shown = jax.device_get(report)
            now = time.perf_counter()
            if not shown.finite:
                _check_finite(job, state, iteration)
            display.show_iteration(
                shown,
                last,
                now - shown_at,
                last - shown_iteration,
                net=job.net,
                solver=solver,
                lines=lines,
                scalars=job.scalars,
                view=job.view,
            )
            shown_at, shown_iteration = now, last
        else:
            lines.note_rate(last)
        lines.note_norm(report.norm, last - first)
        if has_passed(first, iteration, _LOOK_BACK):
            if earlier is not None and not bool(earlier):
                _check_finite(job, state, iteration)
            earlier = report.finite
        asked = poll()
        cursors = None
        if is_due(iteration, solver.snapshot) or (asked.snapshot and not asked.stop):
            save(_test_positions(job))
        if asked.stop:
            stopped = True
            break

    job.view.iteration = iteration
    lines.flush()
    _check_finite(job, state, iteration)
    if solver.snapshot_after_train:
        save(cursors or _test_positions(job))
    if stopped:
        logger.info("Optimization stopped early.")
    else:
        if is_due(iteration, solver.display):
            # One more forward pass shows the loss after the last update.
            with keeping_progress():
                batch = next(job.feed)
            loss, stats = job.loss_step(state, batch)
            logger.info("Iteration %d, loss = %g", iteration, float(loss))
            # BatchNorm has counted it, and the last test sees that, as in Caffe.
            state = state._replace(stats=stats)
        if is_due(iteration, solver.test_interval):
            save_now = functools.partial(save, _test_positions(job))
            with keeping_progress():
                found, state = test_all(job, state, iteration, poll, save_now)
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
    save: Callable[[], None],
) -> tuple[tuple[Outputs, ...] | None, TrainState]:
    """Tests every test net; outputs are means over its test_iter batches.

    Args:
      job: see TrainJob.
      state: its params, stats and hidden states are used, not changed.
      iteration: updates done.
      poll: looked at between batches.
      save: takes the snapshot for which a signal asks.

    Returns:
      The outputs per test net, and the state with what the test nets remember. If a
      signal asks to stop, None and the state as it was.
    """
    scores: list[Outputs] = []
    hidden: list[Stats] = []
    for index, test in enumerate(job.tests):
        logger.info("Iteration %d, Testing net (#%d)", iteration, index)
        if test.test_iter == 0:  # nothing was measured, so there is nothing to show
            scores.append({})
            hidden.append(state.hidden[index])
            continue
        job.view.testing = index
        sums, remembered = run_test(test, index, state, iteration, poll, save)
        job.view.testing = None
        if sums is None:
            logger.info("Test interrupted.")
            return None, state
        hidden.append(remembered)
        outputs = display.show_test(
            {name: np.asarray(s) / test.test_iter for name, s in sums.items()},
            index,
            iteration,
            net=test.net,
            with_loss=job.solver.test_compute_loss,
            scalars=job.scalars,
            view=job.view,
        )
        scores.append(outputs)
    if job.draw is not None:
        job.draw(iteration, state.params)
    return tuple(scores), state._replace(hidden=tuple(hidden))


def _take_batches(job: TrainJob, iteration: int) -> tuple[Blobs, ...]:
    """Returns the batches of the iterations until something is due, or fewer."""
    if job.steps_per_dispatch == 1:
        return (next(job.feed),)
    solver = job.solver
    before = [solver.test_interval, solver.snapshot]
    if job.probe is not None:
        before.append(solver.display)  # it looks at the state before these
    count = count_until_event(
        iteration, job.steps_per_dispatch, job.max_iter, before, [solver.display]
    )
    return job.feed.take(count)


def _test_positions(job: TrainJob) -> dict[str, Mapping[str, int]]:
    return {f"test{index}": test.feed.positions for index, test in enumerate(job.tests)}


def _snapshot(
    job: TrainJob,
    state: TrainState,
    iteration: int,
    cursors: Mapping[str, Mapping[str, int]],
    updates: Params | None,
) -> None:
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
