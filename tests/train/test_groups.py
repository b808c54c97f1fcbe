"""Whole runs with several iterations per program: the same numbers, bit-equal."""

import contextlib
import itertools
import pathlib
import re
import signal
import time

import h5py
import lmdb
import numpy as np
import pytest

import whole_runs
from jaxcaffe import checkpoint, errors, log
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.signals import Requests
from jaxcaffe.train import main, train
from whole_runs import SHUFFLE, assert_equal_states, break_file, start

IN_FOURS = "steps_per_dispatch=4"


def load_config(*overrides):
    return whole_runs.load_config("solver.prototxt", [SHUFFLE, *overrides])


def set_intervals(display: int, snapshot: int, test_interval: int = 10) -> None:
    text = pathlib.Path("solver.prototxt").read_text()
    for field, value in locals().items():
        if field != "text":
            text = re.sub(rf"\b{field}: \d+", f"{field}: {value}", text)
    pathlib.Path("solver.prototxt").write_text(text)


BESIDE = re.compile("is complete|Restarting data prefetching")
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[-+]\d+)?")


def read_lines(workdir: str) -> tuple[list[str], list[float]]:
    """Returns what the loop logged, without numbers, and the numbers.

    Left out are times, paths and lines of threads that read records or write snapshots.
    """
    text = pathlib.Path(f"{workdir}/train.log").read_text()
    text = text[text.index("] Starting Optimization") :].replace(workdir, "WORKDIR")
    lines = [line.split("] ", 1)[1] for line in text.splitlines()]
    lines = [line for line in lines if not BESIDE.search(line)]
    lines = [re.sub(r"\(\S+ iter/s, \S+?s/", "(", line) for line in lines]
    numbers = [float(n) for line in lines for n in NUMBER.findall(line)]
    return [NUMBER.sub("#", line) for line in lines], numbers


SOLVERS = {
    "clipping": (
        'lr_policy: "step"',
        'lr_policy: "multistep" stepvalue: 6 stepvalue: 15 '
        "clip_gradients: 0.5 iter_size: 2",
    ),
    "debug_info": ("display: 3", "display: 3 debug_info: true"),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_groups_log_the_lines_of_single_iterations(workspace, name):
    set_intervals(display=3, snapshot=8)
    break_file("solver.prototxt", *SOLVERS[name])
    most = "max_iter=8" if name == "debug_info" else "max_iter=24"
    train(load_config("workdir=single", most))
    train(load_config("workdir=groups", most, IN_FOURS))
    (lines, numbers), (expected, expected_numbers) = map(
        read_lines, ("groups", "single")
    )
    assert lines == expected
    np.testing.assert_allclose(numbers, expected_numbers, rtol=1e-3, atol=1e-5)
    rows = [log.read_scalars(f"{d}/scalars.jsonl") for d in ("groups", "single")]
    for ours, theirs in zip(*rows, strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["iter"] == theirs["iter"]
        for key, value in theirs.items():
            np.testing.assert_allclose(ours[key], value, rtol=1e-5, err_msg=key)
    if name == "clipping":
        assert sum("clipping" in line for line in lines) > 12
        assert sum("MultiStep" in line for line in lines) == 2


def test_groups_with_other_intervals_give_the_same_bits(workspace):
    # None of the displays is at the end, where one more pass moves BatchNorm's mean.
    set_intervals(display=3, snapshot=5)
    one = train(load_config("workdir=one", IN_FOURS))
    set_intervals(display=7, snapshot=1000, test_interval=9)
    other = train(load_config("workdir=other", IN_FOURS))
    assert_equal_states(one.state, other.state)


def test_groups_stopped_anywhere_and_resumed_give_the_same_bits(workspace, monkeypatch):
    set_intervals(display=3, snapshot=1000)
    whole = train(load_config("workdir=whole", IN_FOURS))
    polls = itertools.count()

    @contextlib.contextmanager
    def stop_at_the_tenth_look(*effects):
        # Two looks in each of the tests at 0 and 10, one after groups: 1, 4, 7, 10, ...
        yield lambda: Requests(snapshot=False, stop=next(polls) == 9)

    with monkeypatch.context() as patch:
        patch.setattr("jaxcaffe.signals.watch_signals", stop_at_the_tenth_look)
        cut = train(load_config("workdir=cut", IN_FOURS))
    assert cut.stopped
    assert 10 < int(cut.state.iter) < 20
    resumed = train(load_config("workdir=cut", IN_FOURS), resume=True)
    assert_equal_states(resumed.state, whole.state)
    rows = log.read_scalars("whole/scalars.jsonl")
    assert log.read_scalars("cut/scalars.jsonl") == rows


def test_groups_killed_and_resumed_give_the_same_bits(workspace):
    set_intervals(display=6, snapshot=7)
    options = [IN_FOURS, "max_iter=200"]
    whole = train(load_config("workdir=whole", *options))
    flags = [SHUFFLE, "workdir=cut", *options]
    process = start("solver.prototxt", *(f"--config.{flag}" for flag in flags))
    while len(checkpoint.steps("cut/snapshots")) < 2:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert checkpoint.steps("cut/snapshots")[-1] < 200
    resumed = train(load_config("workdir=cut", *options), resume=True)
    assert_equal_states(resumed.state, whole.state)
    rows = log.read_scalars("whole/scalars.jsonl")
    assert log.read_scalars("cut/scalars.jsonl") == rows


def test_resume_with_groups_of_another_size_says_so(workspace):
    train(load_config("workdir=w", "max_iter=3", IN_FOURS))
    train(load_config("workdir=w", "max_iter=4"), resume=True)
    text = pathlib.Path("w/train.log").read_text()
    assert "steps_per_dispatch was 4, is 1" in text


def test_bad_record_inside_a_group_keeps_the_progress_before_it(workspace):
    """Record 29 is in the batch of iteration 3; groups are 0, 1 to 4 and so on."""
    with lmdb.open("train_lmdb") as database, database.begin(write=True) as writer:
        writer.put(b"00000029_x", b"not a record")
    set_intervals(display=100, snapshot=1000)
    messages = []
    for workdir, size in (("single", 1), ("groups", 4)):
        options = [f"workdir={workdir}", "data.shuffle=False"]
        with pytest.raises(errors.DataError, match="00000029_x") as caught:
            train(load_config(*options, f"steps_per_dispatch={size}"))
        messages.append(str(caught.value))
        assert checkpoint.steps(f"{workdir}/snapshots") == [3]
    assert messages[0] == messages[1]
    notes = [checkpoint.read_note(f"{d}/snapshots/3") for d in ("single", "groups")]
    assert notes[0]["positions"] == notes[1]["positions"]
    assert notes[1]["positions"]["train"] == {"data": 24}


HDF5_NET = """
layer {
  name: "data" type: "HDF5Data" top: "data" top: "label"
  hdf5_data_param { source: "list.txt" batch_size: 2 }
}
layer {
  name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } }
}
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


@pytest.fixture
def vectors(tmp_path, monkeypatch) -> np.ndarray:
    """The working directory: a net, a solver, and the rows of an HDF5 file."""
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    with h5py.File("rows.h5", "w") as file:
        file["data"] = rows
        file["label"] = (rows[:, 0] > 0).astype(np.float32)
    pathlib.Path("list.txt").write_text("rows.h5\n")
    pathlib.Path("net.prototxt").write_text(HDF5_NET)
    pathlib.Path("solver.prototxt").write_text(
        'train_net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" display: 100\n'
        'max_iter: 15 snapshot: 4 snapshot_prefix: "run" random_seed: 1\n'
    )
    return rows


def test_loss_not_finite_inside_a_group_names_its_iteration_and_layer(vectors):
    with h5py.File("rows.h5", "a") as file:
        file["data"][21] = np.nan  # in the batch of iteration 10
    for size in (1, 4):
        options = [f"workdir=w{size}", f"steps_per_dispatch={size}", "data.shuffle=0"]
        with pytest.raises(errors.NonFiniteError) as caught:
            train(load_config(*options))
        assert str(caught.value).startswith(
            "iteration 10: the loss is not a finite number; first seen in "
            'layer "data" (HDF5Data), top "data"'
        )
        # What is due at 12 is not written.
        assert checkpoint.steps(f"w{size}/snapshots") == [4, 8]


def test_groups_write_hdf5_output_once_for_each_iteration(vectors):
    break_file(
        "net.prototxt",
        'layer { name: "loss"',
        """layer {
          name: "out" type: "HDF5Output" bottom: "data" bottom: "label"
          hdf5_output_param { file_name: "out.h5" }
        }
        layer { name: "loss" """,
    )
    train(load_config("workdir=w", "data.shuffle=0", IN_FOURS))
    with h5py.File("out.h5") as file:
        np.testing.assert_array_equal(file["data"][..., 0, 0], vectors[:30])


def test_groups_keep_the_last_updates_for_snapshot_diff(vectors):
    break_file("solver.prototxt", "snapshot: 4", "snapshot: 4 snapshot_diff: true")
    found = []
    for size in (1, 4):
        prefix = f'snapshot_prefix: "run{size}"'
        text = pathlib.Path("solver.prototxt").read_text()
        text = re.sub(r'snapshot_prefix: "\w+"', prefix, text)
        pathlib.Path("solver.prototxt").write_text(text)
        train(load_config("snapshot.caffe=True", f"steps_per_dispatch={size}"))
        net = caffe_pb2.NetParameter()
        net.ParseFromString(pathlib.Path(f"run{size}_iter_12.caffemodel").read_bytes())
        found.append([list(b.diff) for layer in net.layer for b in layer.blobs])
    assert np.any(found[0][0])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-8)


def test_groups_on_eight_devices_give_the_losses_of_one(workspace):
    break_file("solver.prototxt", "base_lr: 0.05", "base_lr: 0.01")
    set_intervals(display=3, snapshot=1000)
    options = [SHUFFLE, "max_iter=20", IN_FOURS]
    process = start(
        *("solver.prototxt", "--config.workdir=eight"),
        *(f"--config.{option}" for option in options),
        XLA_FLAGS="--xla_force_host_platform_device_count=8",
    )
    _, text = process.communicate()
    assert process.returncode == 0, text
    assert "Using 8 CPU device(s)" in text
    train(load_config("workdir=one", *options))
    eight, one = (
        [r["train/loss"] for r in log.read_scalars(f"{d}/scalars.jsonl") if "loss" in r]
        for d in ("eight", "one")
    )
    assert len(one) == 7
    np.testing.assert_allclose(eight, one, rtol=1e-5)


def test_no_iteration_at_once_is_a_clear_error(workspace):
    with pytest.raises(
        errors.ConfigError, match=r"steps_per_dispatch is 0\. Accepted: .* at least 1"
    ):
        main(["solver.prototxt", "--config.steps_per_dispatch=0"])
