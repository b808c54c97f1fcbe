"""Runs whose disk is full, for a while or for good."""

import os
import pathlib
import resource
import signal
import subprocess
import sys

import pytest

from jaxcaffe import checkpoint, log
from whole_runs import WITHOUT_CAFFE, break_file, start, wait_for_row

SMALL_FILES = """
import resource, sys
from jaxcaffe import train
from jaxcaffe.tools import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
cli.run(train.main)
"""


def run_with_small_files(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [
            *(sys.executable, "-c", SMALL_FILES, "solver.prototxt"),
            *(f"--config.{WITHOUT_CAFFE}", *arguments),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )


def test_full_disk_costs_the_snapshots_but_not_the_run(workspace):
    """A limit on file sizes stands in for the full disk."""
    break_file("solver.prototxt", "display: 1", "display: 100")
    process = run_with_small_files()
    assert process.returncode == 1
    assert "Optimization Done." in process.stderr
    for iteration in range(5, 45, 5):
        failure = f"snapshot of iteration {iteration} could not be written (File too"
        assert failure in process.stderr
    assert "Traceback" not in process.stderr
    assert "snapshot of iteration 40 could not" in process.stderr.splitlines()[-1]
    assert os.listdir("small_run/snapshots") == []


def test_full_disk_under_the_curves_costs_rows_but_not_the_run(workspace):
    break_file("solver.prototxt", "snapshot: 5", "snapshot: 1000")
    process = run_with_small_files("--config.max_iter=120")
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert "Optimization Done." in process.stderr
    assert process.stderr.count("scalars.jsonl: cannot be written") == 1
    rows = pathlib.Path("small_run/scalars.jsonl").read_text()
    assert 8000 < len(rows) <= 9000
    assert rows.endswith("}\n")


def test_disk_that_is_full_for_a_while_costs_only_its_snapshots(workspace):
    process = start("solver.prototxt", "--config.max_iter=100000")
    try:
        wait_for_row("small_run/scalars.jsonl", 12, process)
        no_limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        # The curves fit no more either.
        size = os.path.getsize("small_run/scalars.jsonl")
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, no_limit[1]))
        read_up_to("scalars.jsonl: cannot be written", process)
        read_up_to("could not be written (File too large)", process)
        assert checkpoint.steps("small_run/snapshots")  # those before stay
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, no_limit)
        rows = len(log.read_scalars("small_run/scalars.jsonl"))
        wait_for_row("small_run/scalars.jsonl", rows + 1, process)
        process.send_signal(signal.SIGINT)
        _, text = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, text
    # No row is missing.
    rows = [r for r in log.read_scalars("small_run/scalars.jsonl") if "loss" in r]
    assert [r["iter"] for r in rows] == list(range(len(rows)))
    assert checkpoint.steps("small_run/snapshots")[-1] == len(rows)


# In namespaces of its own, the process may have a disk of its own.
SMALL_DISK = (
    "mkdir small_run && mount -t tmpfs -o size=340k none small_run && "
    '"$0" -m jaxcaffe.train solver.prototxt "$@"; status=$?; '
    "ls small_run/snapshots; exit $status"
)


def can_mount() -> bool:
    command = "mount -t tmpfs -o size=64k none /mnt"
    try:
        return not subprocess.call(
            ["unshare", "-Urm", "sh", "-c", command], stderr=subprocess.DEVNULL
        )
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not can_mount(), reason="no small disk can be mounted here")
def test_disk_without_room_for_two_snapshots_keeps_the_first(workspace):
    break_file("solver.prototxt", "display: 1", "display: 100")
    process = subprocess.run(
        [
            *("unshare", "-Urm", "sh", "-c", SMALL_DISK, sys.executable),
            *(f"--config.{WITHOUT_CAFFE}", "--config.max_iter=15"),
        ],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    assert "Optimization Done." in process.stderr
    assert "Snapshot of iteration 5 is complete" in process.stderr
    for iteration in (10, 15):
        failure = f"iteration {iteration} could not be written (No space left on device"
        assert failure in process.stderr
    assert "the newest whole one is 5" in process.stderr.splitlines()[-1]
    assert process.stdout.split() == ["5"]


def read_up_to(text: str, process: subprocess.Popen) -> None:
    assert any(text in line for line in process.stderr), text
