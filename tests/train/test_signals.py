"""Signals that a run is sent."""

import signal

import pytest

from jaxcaffe import checkpoint, log
from whole_runs import start, wait_for_row


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_signal_snapshots_and_leaves(workspace, number):
    process = start("solver.prototxt", "--config.max_iter=100000")
    wait_for_row("small_run/scalars.jsonl", 4, process)
    process.send_signal(number)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Optimization stopped early." in text
    last = log.read_scalars("small_run/scalars.jsonl")[-1]["iter"] + 1
    assert checkpoint.steps("small_run/snapshots")[-1] == last


def test_hangup_signal_snapshots_and_goes_on(workspace):
    text = (workspace / "solver.prototxt").read_text()
    (workspace / "solver.prototxt").write_text(text.replace("snapshot: 5", ""))
    process = start("solver.prototxt", "--config.max_iter=400")
    wait_for_row("small_run/scalars.jsonl", 4, process)
    process.send_signal(signal.SIGHUP)
    _, output = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Optimization Done." in output
    kept = checkpoint.steps("small_run/snapshots")
    assert len(kept) == 2
    assert kept[-1] == 400
