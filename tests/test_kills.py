"""Processes killed at random moments, during writes too: nothing announced is lost."""

import contextlib
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import h5py
import jax
import numpy as np
import pytest

from jaxcaffe import checkpoint, log
from jaxcaffe.caffe_files.solverstate import read_solver_state
from jaxcaffe.caffe_files.weights import read_weights
from jaxcaffe.config import load_config
from jaxcaffe.train import train

KEEP = 2

# Imports once and forks a process for each life of the run, which takes a second each
# off it. No device is opened before the fork.
SERVER = """
import json, os, sys, traceback
from jaxcaffe import log
from jaxcaffe.config import load_config
from jaxcaffe.train import train
for line in sys.stdin:
    overrides, resume = json.loads(line)
    child = os.fork()
    if not child:
        status = 1
        try:
            log.quieten_libraries()
            train(load_config("solver.prototxt", overrides), resume=resume)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""

FEED = """
layer {
  name: "data" type: "HDF5Data" top: "data" top: "cont" top: "label"
  hdf5_data_param { source: "PHASE.txt" batch_size: BATCH }
}
"""
LAYERS = {
    "plain": """
layer { name: "cont" type: "Silence" bottom: "cont" }
layer {
  name: "hidden" type: "InnerProduct" bottom: "data" top: "hidden"
  inner_product_param { num_output: 5 axis: 2 weight_filler { type: "xavier" } }
}
layer { name: "drop" type: "Dropout" bottom: "hidden" top: "hidden" }
""",
    "recurrent": """
layer {
  name: "lstm" type: "LSTM" bottom: "data" bottom: "cont" top: "hidden"
  recurrent_param { num_output: 5 weight_filler { type: "xavier" } }
}
layer { name: "drop" type: "Dropout" bottom: "hidden" top: "hidden" }
""",
}
HEAD = """
layer {
  name: "ip" type: "InnerProduct" bottom: "hidden" top: "ip"
  inner_product_param { num_output: 2 axis: 2 weight_filler { type: "xavier" } }
}
layer {
  name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss"
  softmax_param { axis: 2 }
}
"""
TESTS = """
test_net: "test.prototxt"
test_iter: 2
test_interval: 7
test_initialization: false
"""
SOLVER = """
train_net: "train.prototxt"
base_lr: 0.05
lr_policy: "step"
gamma: 0.9
stepsize: 40
momentum: 0.9
average_loss: 3
display: 1
random_seed: 5
snapshot_prefix: "run"
"""


def write_sequences(name: str, timesteps: int, streams: int) -> None:
    """Writes sequences whose labels tell whether they have risen since their start."""
    rng = np.random.default_rng(streams)
    x = rng.normal(size=(timesteps, streams, 3)).astype(np.float32)
    with h5py.File(f"{name}.h5", "w") as file:
        file["data"] = x
        file["cont"] = (rng.uniform(size=x.shape[:2]) > 0.1).astype(np.float32)
        file["label"] = (np.cumsum(x[..., 0], 0) > 0).astype(np.float32)
    pathlib.Path(f"{name}.txt").write_text(f"{name}.h5\n")


@pytest.fixture(params=["plain", "recurrent"])
def sequences(request, tmp_path, monkeypatch) -> str:
    """The working directory: nets, whose batches differ, sequences and two solvers."""
    monkeypatch.chdir(tmp_path)
    for name, streams, batch in (("train", 4, 5), ("test", 3, 4)):
        write_sequences(name, 11 * batch + 2, streams)
        feed = FEED.replace("PHASE", name).replace("BATCH", str(batch))
        pathlib.Path(f"{name}.prototxt").write_text(feed + LAYERS[request.param] + HEAD)
    solver = SOLVER + (TESTS if request.param == "recurrent" else "")
    pathlib.Path("solver.prototxt").write_text(solver + "snapshot: 2\n")
    pathlib.Path("whole_solver.prototxt").write_text(solver)
    return request.param


class Lives:
    """A run that goes through many processes."""

    def __init__(self, caffe: bool) -> None:
        self._caffe = caffe  # whether Caffe's files are written too
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=open("stderr.txt", "wb"),  # noqa: SIM115
            text=True,
        )

    def start(self, max_iter: int) -> int:
        """Starts or resumes the run in a new process; returns its id."""
        overrides = [
            *("workdir=cut", f"max_iter={max_iter}"),
            *(f"snapshot.caffe={self._caffe}", f"snapshot.keep={KEEP}"),
        ]
        resume = bool(checkpoint.steps("cut/snapshots"))
        print(json.dumps([overrides, resume]), file=self._server.stdin, flush=True)
        return int(self._server.stdout.readline())

    def end(self) -> int:
        """Waits for the process; returns its status as os.waitpid has it."""
        return int(self._server.stdout.readline())

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait(60)
        self._server.stdout.close()


@pytest.fixture
def lives(sequences):
    with contextlib.closing(Lives(caffe=sequences == "plain")) as running:
        yield running


def read_log(start: int = 0) -> str:
    """Returns the run's log from an offset in bytes on."""
    with contextlib.suppress(FileNotFoundError), open("cut/train.log", "rb") as file:
        file.seek(start)
        return file.read().decode()
    return ""


BEGUN = re.compile(r"Snapshotting to cut/snapshots/(\d+)\n")
COMPLETE = re.compile(r"Snapshot of iteration (\d+) is complete")


def wait_for(line: re.Pattern, count: int, start: int, process: int) -> None:
    """Waits until the log has so many lines of a kind after an offset."""
    for _ in range(12000):
        if len(line.findall(read_log(start))) >= count:
            return
        os.kill(process, 0)
        time.sleep(0.005)
    raise AssertionError("the run made no progress")


KILLS = {"plain": 32, "recurrent": 20}


def test_run_killed_at_random_moments_loses_nothing(sequences, lives):
    chance = random.Random(sequences)
    killed_while_writing = 0
    seen: set[tuple[str, int]] = set()
    for life in range(KILLS[sequences]):
        start = len(read_log().encode())
        process = lives.start(10**6)
        if life % 8 == 4:
            time.sleep(chance.uniform(0, 0.8))  # while it opens nets and its snapshot
        else:
            line = chance.choice([BEGUN, BEGUN, COMPLETE])
            wait_for(line, chance.randint(1, 3), start, process)
            time.sleep(chance.uniform(0, 0.1))
        os.kill(process, signal.SIGKILL)
        assert lives.end() == signal.SIGKILL, pathlib.Path("stderr.txt").read_text()

        # What was announced is there, but for what made way for something newer.
        there = checkpoint.steps("cut/snapshots")
        # (One may be complete whose announcement the kill came before.)
        for step in map(int, COMPLETE.findall(read_log())):
            newer = sum(other > step for other in there)
            assert step in there or newer >= KEEP, (life, step, there)
        names = os.listdir("cut/snapshots") if os.path.isdir("cut/snapshots") else []
        assert not any("broken" in name for name in names), life
        killed_while_writing += any("partial" in name for name in names)
        assert_caffes_files_are_whole(seen)
    assert killed_while_writing >= KILLS[sequences] // 4

    max_iter = checkpoint.steps("cut/snapshots")[-1] + 9
    lives.start(max_iter)
    assert lives.end() == 0, pathlib.Path("stderr.txt").read_text()
    assert read_log().count("Resuming from cut/") >= KILLS[sequences] // 2
    assert checkpoint.steps("cut/snapshots")[-1] == max_iter
    assert_caffes_files_are_whole(seen)
    assert bool(seen) == (sequences == "plain")
    # Nothing is left of those whose writing a kill ended.
    assert not list(pathlib.Path().glob(".*.part"))

    options = ["workdir=whole", f"max_iter={max_iter}", "snapshot.caffe=False"]
    whole = train(load_config("whole_solver.prototxt", options)).state
    # Every loss and every score of every test, to the last digit.
    rows = log.read_scalars("whole/scalars.jsonl")
    assert len(rows) >= max_iter
    assert log.read_scalars("cut/scalars.jsonl") == rows
    assert_same_snapshot(
        f"cut/snapshots/{max_iter}", f"whole/snapshots/{max_iter}", whole
    )
    assert len(whole.hidden) == (sequences == "recurrent")


def assert_caffes_files_are_whole(seen: set[tuple[str, int]]) -> None:
    """Reads all that are new, and adds them to those that were seen."""
    for path in pathlib.Path().glob("run_iter_*"):
        version = (path.name, path.stat().st_mtime_ns)
        if version in seen:
            continue
        seen.add(version)
        if path.suffix == ".caffemodel":
            assert read_weights(path)["ip"][0].shape == (2, 5)
            continue
        state = read_solver_state(path)
        assert path.stem == f"run_iter_{state.iter}"
        assert state.learned_net == f"run_iter_{state.iter}.caffemodel"
        assert os.path.exists(state.learned_net)
        assert state.history[0].shape == (5, 3)


def assert_same_snapshot(ours: str, theirs: str, like) -> None:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    states = [checkpoint.restore(path, like, device) for path in (ours, theirs)]
    jax.tree.map(np.testing.assert_array_equal, states[0][0], states[1][0])
    assert states[0][1]["positions"] == states[1][1]["positions"]
