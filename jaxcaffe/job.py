"""From a run and its start to everything that the loop calls.

Follows the constructor of Solver in caffe/src/caffe/solver.cpp.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from jaxcaffe import blame, checkpoint, cpu, grouping, log, loop, testing
from jaxcaffe import run as runs
from jaxcaffe.board import join_scalars, open_board
from jaxcaffe.caffe_files import snapshots as caffe_snapshots
from jaxcaffe.debug_info import make_test_probe, make_train_probe
from jaxcaffe.run_view import RunView
from jaxcaffe.start import Start, make_note


@contextlib.contextmanager
def open_job(run: runs.Run, workdir: str, start: Start) -> Iterator[loop.TrainJob]:
    """Yields the job of a run: compiled steps, open feeds, snapshots and curves.

    Leaving waits for what is being written and ends all threads.

    Args:
      run: not begun.
      workdir: for its snapshots and curves.
      start: where it starts.

    Raises:
      CaffeError: something cannot be opened.
    """
    solver = run.solver
    first = int(start.state.iter)
    curves = os.path.join(workdir, "scalars.jsonl")
    log.start_scalars(curves, first)
    with contextlib.ExitStack() as stack:
        snapshots = checkpoint.open_writer(
            os.path.join(workdir, "snapshots"),
            run.config.snapshot.keep,
            start.outdated,
        )
        stack.callback(snapshots.close)
        caffe = None
        if run.config.snapshot.caffe:
            caffe = caffe_snapshots.open_writer(
                run.train.net, solver, first, with_state=not run.config.optimizer
            )
            stack.callback(caffe.close)
        at_once = run.config.steps_per_dispatch
        positions = start.positions.get("train")
        feed = runs.open_device_feed(run, run.train, positions, at_once)
        stack.callback(feed.close)
        tests = tuple(_open_test(run, index, start) for index in range(len(run.tests)))
        for test in tests:
            stack.callback(test.feed.close)
        scalars = log.open_scalars(curves)
        draw = None
        if run.config.tensorboard:
            folder = os.path.join(workdir, "tensorboard")
            board = open_board(folder, run.train.net, first)
            stack.callback(board.close)
            scalars, draw = join_scalars(scalars, board), board.draw
        probe = None
        if solver.debug_info:
            probe = make_train_probe(run.train.net, run.train.augment, solver.iter_size)
        yield loop.TrainJob(
            solver=solver,
            max_iter=run.max_iter,
            net=run.train.net,
            steps_per_dispatch=at_once,
            advance=_compile_advance(run),
            loss_step=runs.compile_loss_step(run),
            feed=feed,
            tests=tests,
            snapshots=snapshots,
            note=make_note(run),
            scalars=scalars,
            view=RunView(run.max_iter, _images(run), first),
            blame=lambda *args: blame.name_first_non_finite(run, *args),
            caffe=caffe,
            probe=probe,
            draw=draw,
        )


def _compile_advance(run: runs.Run) -> grouping.Advance:
    size = run.config.steps_per_dispatch
    if size == 1:
        return grouping.advance_by_one(cpu.pace_steps(runs.compile_train_step(run)))
    group_step = cpu.pace_steps(runs.compile_group_step(run))
    return grouping.advance_by_group(group_step, size)


def _open_test(run: runs.Run, index: int, start: Start) -> testing.TestJob:
    fed = run.tests[index]
    probe = make_test_probe(fed.net, fed.augment) if run.solver.debug_info else None
    return testing.TestJob(
        net=fed.net,
        eval_step=runs.compile_eval_step(run, fed),
        zero_sums=runs.make_zero_sums(run, fed),
        own=start.own[index],
        feed=runs.open_device_feed(run, fed, start.positions.get(f"test{index}")),
        test_iter=fed.test_iter,
        probe=probe,
    )


def _images(run: runs.Run) -> int:
    """Returns the records of one iteration; 0 where the net makes its own."""
    sizes = [feed.batch_size for feed in run.train.feeds]
    return max(sizes, default=0) * run.solver.iter_size
