"""Runs that go on from a snapshot, of a killed run and of a broken snapshot too."""

import contextlib
import itertools
import os
import pathlib
import signal

import numpy as np
import pytest

from jaxcaffe import checkpoint, errors, log
from jaxcaffe.signals import Requests
from jaxcaffe.train import main, train
from whole_runs import (
    SHUFFLE,
    WITHOUT_CAFFE,
    assert_equal_states,
    break_file,
    load_config,
    start,
    wait_for_row,
)


def test_killed_run_resumed_equals_the_run_never_stopped(workspace):
    options = [SHUFFLE, "max_iter=300"]
    whole = train(load_config("solver.prototxt", [*options, "workdir=whole"]))
    process = start(
        "solver.prototxt", *[f"--config.{o}" for o in options], "--config.workdir=cut"
    )
    wait_for_row("cut/scalars.jsonl", 15, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    kept = checkpoint.steps("cut/snapshots")
    assert kept
    assert kept[-1] < 300

    # Another number of reader threads must not matter either.
    threads = "data.threads=5"
    resumed = train(
        load_config("solver.prototxt", [*options, "workdir=cut", threads]), resume=True
    )
    assert_equal_states(resumed.state, whole.state)
    assert log.read_scalars("cut/scalars.jsonl") == log.read_scalars(
        "whole/scalars.jsonl"
    )
    assert resumed.scores[0] == whole.scores[0]


def test_resume_goes_on_with_the_clocks_seed_of_the_first_run(workspace):
    text = (workspace / "solver.prototxt").read_text()
    (workspace / "solver.prototxt").write_text(text.replace("random_seed: 11", ""))
    overrides = [SHUFFLE, "workdir=w"]
    train(load_config("solver.prototxt", [*overrides, "max_iter=5"]))
    note = checkpoint.read_note("w/snapshots/5")
    resumed = train(load_config("solver.prototxt", overrides), resume=True)
    direct = [*overrides[:1], f"seed={note['seed']}", "workdir=direct"]
    assert_equal_states(
        resumed.state, train(load_config("solver.prototxt", direct)).state
    )


def test_snapshot_given_by_path_goes_on_from_there(workspace):
    whole = train(load_config("solver.prototxt", ["workdir=w", "snapshot.keep=0"]))
    config = load_config("solver.prototxt", ["workdir=other"])
    resumed = train(config, snapshot="w/snapshots/20")
    assert_equal_states(resumed.state, whole.state)


def test_snapshots_older_than_the_newest_keep_are_removed(workspace):
    train(load_config("solver.prototxt", ["workdir=w", "snapshot.keep=2"]))
    assert checkpoint.steps("w/snapshots") == [35, 40]


def test_newest_snapshot_broken_is_set_aside_and_the_one_before_taken(workspace):
    config = load_config("solver.prototxt", ["workdir=w"])
    whole = train(config)
    for path in pathlib.Path("w/snapshots/40/state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    resumed = train(config, resume=True)
    assert os.path.isdir("w/snapshots/40.broken")
    assert_equal_states(resumed.state, whole.state)


def test_stop_in_the_middle_of_a_test_resumes_with_the_whole_test(
    workspace, monkeypatch
):
    whole = train(load_config("solver.prototxt", ["workdir=whole"]))
    polls = itertools.count()

    @contextlib.contextmanager
    def stop_in_the_second_test(*effects):
        # Two looks in the test at 0, ten after updates, then between test batches.
        yield lambda: Requests(snapshot=False, stop=next(polls) == 13)

    with monkeypatch.context() as patch:
        patch.setattr("jaxcaffe.signals.watch_signals", stop_in_the_second_test)
        cut = train(load_config("solver.prototxt", ["workdir=cut"]))
    assert cut.stopped
    assert int(cut.state.iter) == 10
    resumed = train(load_config("solver.prototxt", ["workdir=cut"]), resume=True)
    assert_equal_states(resumed.state, whole.state)
    rows = log.read_scalars("whole/scalars.jsonl")
    assert log.read_scalars("cut/scalars.jsonl") == rows


def test_resume_with_the_newest_note_broken_takes_the_snapshot_before(workspace):
    config = load_config("solver.prototxt", ["workdir=w"])
    whole = train(config)
    for path in pathlib.Path("w/snapshots/40/note").iterdir():
        path.write_bytes(b"")
    assert_equal_states(train(config, resume=True).state, whole.state)
    assert os.path.isdir("w/snapshots/40.broken")


def test_no_snapshot_is_set_aside_when_none_can_be_read(workspace, monkeypatch):
    config = load_config("solver.prototxt", ["workdir=w", "max_iter=10"])
    train(config)

    def fail(*args, **kwargs):
        raise ValueError("disk trouble")

    with monkeypatch.context() as patch:
        patch.setattr("orbax.checkpoint.PyTreeCheckpointHandler.restore", fail)
        with pytest.raises(errors.SnapshotError, match="disk trouble"):
            train(config, resume=True)
    assert checkpoint.steps("w/snapshots") == [5, 10]


def test_average_loss_may_change_at_a_resume(workspace):
    train(load_config("solver.prototxt", ["workdir=w", "max_iter=5"]))
    break_file("solver.prototxt", "average_loss: 3", "average_loss: 2")
    train(load_config("solver.prototxt", ["workdir=w", "max_iter=8"]), resume=True)
    rows = [r for r in log.read_scalars("w/scalars.jsonl") if "loss" in r]
    losses = [row["train/loss"] for row in rows]
    np.testing.assert_allclose(rows[5]["loss"], np.mean(losses[4:6]), rtol=1e-6)
    np.testing.assert_allclose(rows[7]["loss"], np.mean(losses[6:8]), rtol=1e-6)


def test_average_loss_window_survives_a_snapshot(workspace):
    overrides = ["workdir=w", "max_iter=7"]
    train(load_config("solver.prototxt", overrides))
    rows = log.read_scalars("w/scalars.jsonl")
    losses = [row["train/loss"] for row in rows if "loss" in row]
    smooth = [row["loss"] for row in rows if "loss" in row]
    expected = [np.mean(losses[max(0, i - 2) : i + 1]) for i in range(7)]
    np.testing.assert_allclose(smooth, expected, rtol=1e-6)


def test_snapshot_of_another_net_names_what_differs(workspace):
    train(load_config("solver.prototxt", ["workdir=w", "max_iter=5"]))
    break_file("net.prototxt", "num_output: 32", "num_output: 31")
    with pytest.raises(
        errors.SnapshotError, match=r"another net.*ip1/bias has shape \(32,\).*\(31,\)"
    ):
        train(load_config("solver.prototxt", ["workdir=w"]), resume=True)


def test_snapshot_of_another_solver_type_is_refused_and_nothing_touched(workspace):
    train(load_config("solver.prototxt", ["workdir=w", "max_iter=10"]))
    break_file("solver.prototxt", 'lr_policy: "step"', 'lr_policy: "step" type: "Adam"')
    with pytest.raises(
        errors.SnapshotError, match=r'type "SGD", the solver has type "Adam"'
    ):
        main(
            [
                *("solver.prototxt", "--snapshot=w/snapshots/5", "--overwrite"),
                *("--config.workdir=w", f"--config.{WITHOUT_CAFFE}"),
            ]
        )
    assert checkpoint.steps("w/snapshots") == [5, 10]
