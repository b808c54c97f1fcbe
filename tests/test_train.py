"""Whole runs: learning, snapshots, killing, resuming, signals, devices, mistakes."""

import contextlib
import itertools
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import jax
import lmdb
import numpy as np
import pytest

from jaxcaffe import checkpoint, config, errors, fed_net, log, run, sharding
from jaxcaffe.config import CHOICES
from jaxcaffe.datasets.prepare import PREPARE
from jaxcaffe.proto import binary, caffe_pb2
from jaxcaffe.signals import Requests
from jaxcaffe.train import main, train

SHUFFLE = "data.shuffle=True"
# Runs in several workdirs would meet at one snapshot_prefix.
WITHOUT_CAFFE = "snapshot.caffe=False"


def load_config(path: str, overrides: Sequence[str] = ()):
    return config.load_config(path, [WITHOUT_CAFFE, *overrides])


def read_state(opened: run.Run, path: str):
    like = run.state_struct(opened)
    return checkpoint.restore(path, like, sharding.replicated(opened.mesh))


def leaves(state):
    flat, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(state))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}


def assert_equal_states(ours, theirs):
    ours, theirs = leaves(ours), leaves(theirs)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def start(*arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "jaxcaffe.train", *arguments),
            f"--config.{WITHOUT_CAFFE}",
        ],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def wait_for_row(path: str, count: int, process: subprocess.Popen) -> None:
    for _ in range(6000):
        if os.path.exists(path) and len(log.read_scalars(path)) >= count:
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    raise AssertionError(f"{path} never had {count} rows")


def test_train_learns_the_small_task(workspace):
    break_file("solver.prototxt", "stepsize: 15", "stepsize: 150")
    result = train(load_config("solver.prototxt", ["max_iter=300"]))
    assert result.scores[0]["accuracy"] >= 0.9
    assert not result.stopped


def test_train_again_with_the_same_seed_gives_the_same_bits(workspace):
    config = load_config("solver.prototxt", [SHUFFLE])
    first = train(config)
    second = train(load_config("solver.prototxt", [SHUFFLE, "workdir=again"]))
    assert_equal_states(first.state, second.state)


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


def test_bad_record_is_reported_at_its_turn_and_progress_is_kept(workspace):
    with lmdb.open("train_lmdb") as database, database.begin(write=True) as writer:
        writer.put(b"00000045_x", b"not a record")
    break_file("solver.prototxt", "snapshot: 5", "snapshot: 1000")
    # With a display due at the end, one more batch would be read to show its loss.
    break_file("solver.prototxt", "display: 1", "display: 100")
    # Five batches of eight need the records before number 40 only.
    result = train(load_config("solver.prototxt", ["workdir=short", "max_iter=5"]))
    assert int(result.state.iter) == 5
    with pytest.raises(errors.DataError, match="00000045_x"):
        train(load_config("solver.prototxt", ["workdir=long"]))
    assert checkpoint.steps("long/snapshots") == [5]


def test_bad_record_of_a_test_is_reported_and_progress_is_kept(workspace):
    with lmdb.open("test_lmdb") as database, database.begin(write=True) as writer:
        writer.put(b"00000003_x", b"not a record")
    break_file("solver.prototxt", "snapshot: 5", "test_initialization: false")
    with pytest.raises(errors.DataError, match="00000003_x"):
        train(load_config("solver.prototxt", ["workdir=w"]))
    assert checkpoint.steps("w/snapshots") == [10]
    assert len(log.read_scalars("w/scalars.jsonl")) == 10


def test_overwrite_keeps_what_is_there_until_the_first_own_snapshot(workspace):
    train(load_config("solver.prototxt", ["workdir=w", "max_iter=20"]))
    assert checkpoint.steps("w/snapshots") == [10, 15, 20]
    break_file("solver.prototxt", "base_lr: 0.05", "base_lr: 1e30")
    with pytest.raises(errors.NonFiniteError):
        train(load_config("solver.prototxt", ["workdir=w"]), overwrite=True)
    assert checkpoint.steps("w/snapshots") == [10, 15, 20]
    break_file("solver.prototxt", "base_lr: 1e30", "base_lr: 0.05")
    train(load_config("solver.prototxt", ["workdir=w", "max_iter=5"]), overwrite=True)
    assert checkpoint.steps("w/snapshots") == [5]


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


def test_overwrite_removes_nothing_before_the_run_is_known_to_start(workspace):
    train(load_config("solver.prototxt", ["workdir=w", "max_iter=5"]))
    break_file("net.prototxt", '"Pooling"', '"Poling"')
    with pytest.raises(errors.PrototxtError, match="Poling"):
        train(load_config("solver.prototxt", ["workdir=w"]), overwrite=True)
    assert checkpoint.steps("w/snapshots") == [5]


def test_average_loss_may_change_at_a_resume(workspace):
    train(load_config("solver.prototxt", ["workdir=w", "max_iter=5"]))
    break_file("solver.prototxt", "average_loss: 3", "average_loss: 2")
    train(load_config("solver.prototxt", ["workdir=w", "max_iter=8"]), resume=True)
    rows = [r for r in log.read_scalars("w/scalars.jsonl") if "loss" in r]
    losses = [row["train/loss"] for row in rows]
    np.testing.assert_allclose(rows[5]["loss"], np.mean(losses[4:6]), rtol=1e-6)
    np.testing.assert_allclose(rows[7]["loss"], np.mean(losses[6:8]), rtol=1e-6)


def test_second_run_in_a_workdir_is_refused_while_the_first_goes_on(workspace):
    process = start("solver.prototxt", "--config.max_iter=100000")
    wait_for_row("small_run/scalars.jsonl", 2, process)
    with pytest.raises(errors.ConfigError, match="another run uses this workdir"):
        train(load_config("solver.prototxt"), overwrite=True)
    process.kill()
    process.communicate()


def test_weights_that_are_not_finite_are_never_snapshotted(workspace):
    # The first update overflows, though the loss before it is finite.
    break_file("solver.prototxt", "base_lr: 0.05", "base_lr: 1e35")
    break_file(
        "net.prototxt", 'name: "ip2" type', 'param { lr_mult: 1e5 } name: "ip2" type'
    )
    break_file("solver.prototxt", "snapshot: 5", "snapshot: 1")
    with pytest.raises(errors.NonFiniteError, match=r'iteration 1: blob .* "ip2"'):
        train(load_config("solver.prototxt"))
    assert checkpoint.steps("small_run/snapshots") == []


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


def test_loss_not_finite_stops_with_iteration_and_layer(workspace):
    text = (workspace / "solver.prototxt").read_text()
    text = text.replace("base_lr: 0.05", "base_lr: 1e30").replace("snapshot: 5", "")
    (workspace / "solver.prototxt").write_text(text)
    with pytest.raises(
        errors.NonFiniteError, match=r"iteration \d+: the loss .* first seen in layer"
    ):
        train(load_config("solver.prototxt"))
    assert checkpoint.steps("small_run/snapshots") == []


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


def test_log_has_caffes_lines(workspace, capfd):
    train(load_config("solver.prototxt", ["max_iter=2"]))
    text = capfd.readouterr().err
    for pattern in (
        "] Solving small\n",
        "] Learning Rate Policy: step\n",
        "] Iteration 0, Testing net (#0)\n",
        "]     Test net output #0: accuracy = ",
        "]     Test net output #1: loss = ",
        "] Test score #0: ",
        "]     Train net output #0: loss = ",
        "] Iteration 1, lr = 0.05\n",
        "] Iteration 2, loss = ",
        "] Optimization Done.\n",
    ):
        assert pattern in text
    kept = (workspace / "small_run" / "train.log").read_text()
    assert kept == text


def test_log_has_a_line_wherever_the_records_start_anew(workspace):
    break_file("solver.prototxt", "test_interval: 10", "test_interval: 100")
    train(load_config("solver.prototxt", ["max_iter=30"]))
    text = pathlib.Path("small_run/train.log").read_text()
    # Once the test that comes first is over.
    text = text[text.index("] Iteration 1, lr = ") :]
    count = text.count("] Restarting data prefetching from start.\n")
    # 30 batches of 8 are 4.8 times the 50 records; a few more are read ahead.
    assert count in (4, 5)


def test_average_loss_window_survives_a_snapshot(workspace):
    overrides = ["workdir=w", "max_iter=7"]
    train(load_config("solver.prototxt", overrides))
    rows = log.read_scalars("w/scalars.jsonl")
    losses = [row["train/loss"] for row in rows if "loss" in row]
    smooth = [row["loss"] for row in rows if "loss" in row]
    expected = [np.mean(losses[max(0, i - 2) : i + 1]) for i in range(7)]
    np.testing.assert_allclose(smooth, expected, rtol=1e-6)


def test_finetune_takes_matching_layers_from_a_caffemodel(workspace):
    weight = np.full((8, 3, 3, 3), 0.25, np.float32)
    net = caffe_pb2.NetParameter(name="other")
    layer = net.layer.add(name="conv", type="Convolution")
    layer.blobs.append(binary.array_to_blob(weight))
    layer.blobs.append(binary.array_to_blob(np.zeros(8, np.float32)))
    net.layer.add(name="unknown", type="ReLU")
    binary.write_caffemodel("start.caffemodel", net)
    config = load_config(
        "solver.prototxt", ["weights=start.caffemodel", "max_iter=0", "workdir=w"]
    )
    text = pathlib.Path("solver.prototxt").read_text()
    pathlib.Path("solver.prototxt").write_text(text.replace("max_iter: 40", ""))
    result = train(config)
    np.testing.assert_array_equal(result.state.params["conv"]["weight"], weight)
    assert "Ignoring source layer unknown" in pathlib.Path("w/train.log").read_text()


def test_iter_size_sums_over_batches_like_one_large_batch(workspace):
    net = pathlib.Path("net.prototxt").read_text()
    plain = net.replace("mirror: true crop_size: 12", "crop_size: 16")
    plain = plain.replace("crop_size: 12", "crop_size: 16")
    # Batch statistics and dropout depend on how records are grouped.
    plain = plain.replace("dropout_ratio: 0.3", "dropout_ratio: 0")
    plain = plain.replace(
        'layer { name: "bn" type: "BatchNorm" bottom: "ip1" top: "ip1" }', ""
    )
    pathlib.Path("net.prototxt").write_text(plain)
    solver = pathlib.Path("solver.prototxt").read_text()
    pathlib.Path("solver.prototxt").write_text(solver + "iter_size: 2\n")
    overrides = ["max_iter=10", "workdir=two"]
    two = train(load_config("solver.prototxt", overrides)).state
    pathlib.Path("solver.prototxt").write_text(solver)
    pathlib.Path("net.prototxt").write_text(
        plain.replace("batch_size: 8", "batch_size: 16", 1)
    )
    one = train(load_config("solver.prototxt", ["max_iter=10", "workdir=one"])).state
    for name, value in leaves(two.params).items():
        np.testing.assert_allclose(
            value, leaves(one.params)[name], rtol=1e-4, atol=1e-6, err_msg=name
        )


def test_frozen_layer_keeps_its_weights_and_others_learn(workspace):
    net = pathlib.Path("net.prototxt").read_text()
    frozen = net.replace('name: "conv" type', 'param { lr_mult: 0 } name: "conv" type')
    pathlib.Path("net.prototxt").write_text(frozen)
    config = load_config("solver.prototxt", ["max_iter=5"])
    before = run.make_state(run.open_run(config)).params
    before = jax.device_get(before)
    after = train(config).state.params
    np.testing.assert_array_equal(before["conv"]["weight"], after["conv"]["weight"])
    assert not np.array_equal(before["conv"]["bias"], after["conv"]["bias"])
    assert not np.array_equal(before["ip2"]["weight"], after["ip2"]["weight"])


DEVICES = """
import json, sys
from jaxcaffe import train
from jaxcaffe.config import CHOICES, load_config
from jaxcaffe.datasets.prepare import PREPARE
config = load_config("solver.prototxt", ["snapshot.caffe=False", *sys.argv[2:]])
train.train(config, resume=sys.argv[1] == "resume")
"""


def run_on_devices(count: int, mode: str, *overrides: str) -> None:
    process = subprocess.run(
        [sys.executable, "-c", DEVICES, mode, *overrides],
        env={
            **os.environ,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.returncode == 0, process.stderr


def test_eight_devices_give_the_losses_of_one_and_resume_each_others_runs(workspace):
    # Sums over a batch are taken in another order on eight devices; at a small rate
    # what that rounds differently does not grow.
    break_file("solver.prototxt", "base_lr: 0.05", "base_lr: 0.01")
    # Six test images cannot be divided; every device then computes them all.
    net = pathlib.Path("net.prototxt").read_text()
    head, tail = net.rsplit("batch_size: 8", 1)
    pathlib.Path("net.prototxt").write_text(f"{head}batch_size: 6{tail}")
    run_on_devices(8, "new", "workdir=eight", "max_iter=20", SHUFFLE)
    train(load_config("solver.prototxt", ["workdir=one", "max_iter=20", SHUFFLE]))
    eight, one = (
        [r["train/loss"] for r in log.read_scalars(f"{d}/scalars.jsonl") if "loss" in r]
        for d in ("eight", "one")
    )
    assert len(one) == 20
    np.testing.assert_allclose(eight, one, rtol=1e-5)

    resumed = load_config("solver.prototxt", ["workdir=eight", "max_iter=30", SHUFFLE])
    train(resumed, resume=True)
    train(load_config("solver.prototxt", ["workdir=one", "max_iter=30", SHUFFLE]), True)
    eight, one = (
        [r["train/loss"] for r in log.read_scalars(f"{d}/scalars.jsonl") if "loss" in r]
        for d in ("eight", "one")
    )
    assert len(eight) == 30
    # Ten more iterations on, from a snapshot that was rounded differently.
    np.testing.assert_allclose(eight, one, rtol=1e-4)
    assert "devices was 8, is 1" in pathlib.Path("eight/train.log").read_text()


def test_every_log_line_has_glogs_prefix(workspace):
    train(load_config("solver.prototxt", ["max_iter=3"]))
    text = pathlib.Path("small_run/train.log").read_text()
    # The solver and the nets follow their lines as they stand, as in Caffe.
    text, count = re.subn(
        r"(from parameters: \n)(?!I\d{4})(.+\n)+?(?=I\d{4} )", r"\1", text
    )
    assert count == text.count("Initializing ") > 1
    for line in text.splitlines():
        assert re.match(r"[IWE]\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ \S+:\d+\] ", line), line


# ---- mistakes


def break_file(path: str, old: str, new: str) -> None:
    text = pathlib.Path(path).read_text()
    assert old in text
    pathlib.Path(path).write_text(text.replace(old, new))


MISTAKES = {
    "no config": (lambda: os.remove("solver.prototxt"), [], "no such file"),
    "no net": (
        lambda: os.remove("net.prototxt"),
        [],
        r"net\.prototxt: .*(no such file|does not exist)",
    ),
    "unknown field": (
        lambda: break_file("net.prototxt", "kernel_size: 3 stride", "kernel_sise: 3 s"),
        [],
        r"net\.prototxt:\d+: .*kernel_sise.*kernel_size",
    ),
    "unknown type": (
        lambda: break_file("net.prototxt", '"Pooling"', '"Poling"'),
        [],
        r'net\.prototxt:\d+: layer "pool".*Poling.*Pooling',
    ),
    "unknown bottom": (
        lambda: break_file("net.prototxt", 'bottom: "pool"', 'bottom: "pol"'),
        [],
        r'net\.prototxt:\d+: layer "ip1".*"pol".*pool',
    ),
    "label too large": (
        lambda: break_file("net.prototxt", "num_output: 4", "num_output: 2"),
        [],
        r"label.*0000.*|0000.*label",
    ),
    "no database": (
        lambda: shutil.rmtree("train_lmdb"),
        [],
        r'layer "data".*train_lmdb',
    ),
    "empty database": (
        lambda: (shutil.rmtree("train_lmdb"), write_empty("train_lmdb")),
        [],
        r"train_lmdb.*holds no record",
    ),
    "corrupt database": (
        lambda: pathlib.Path("train_lmdb/data.mdb").write_bytes(b"x" * 9000),
        [],
        r"train_lmdb",
    ),
    "mean of another shape": (
        lambda: binary.write_blob(
            "mean.binaryproto", np.zeros((1, 3, 9, 9), np.float32)
        ),
        [],
        r"mean\.binaryproto.*9.*16|16.*mean\.binaryproto.*9",
    ),
    "crop too large": (
        lambda: break_file("net.prototxt", "crop_size: 12", "crop_size: 40"),
        [],
        r"crop_size.*40.*16|40.*crop",
    ),
    "snapshot with weights": (
        lambda: None,
        ["--snapshot=x/1", "--weights=a.caffemodel"],
        "cannot be combined",
    ),
    "resume and snapshot": (
        lambda: None,
        ["--resume", "--snapshot=x/1"],
        "--snapshot are both given",
    ),
    "field without value": (
        lambda: None,
        ["--config.workdir", "--resume"],
        "--config.workdir has no value|--config.workdir: has no value",
    ),
    "workdir that is a file": (
        lambda: None,
        ["--config.workdir=net.prototxt"],
        r"net\.prototxt: cannot be used as workdir",
    ),
    "snapshots that are a file": (
        lambda: (os.mkdir("w"), pathlib.Path("w/snapshots").write_text("")),
        ["--config.workdir=w"],
        r"w/snapshots: cannot write snapshots here",
    ),
    "test of fewer than no batches": (
        lambda: break_file("solver.prototxt", "test_iter: 2", "test_iter: -2"),
        [],
        "a test_iter is -2",
    ),
    "no layer for the phase": (
        lambda: pathlib.Path("net.prototxt").write_text('name: "none"\n'),
        [],
        "the net has no layer for phase TRAIN",
    ),
    "workdir at the snapshot_prefix": (
        lambda: None,
        ["--config.workdir=small", "--config.snapshot.caffe=true"],
        "small is the snapshot_prefix too",
    ),
    "resume with nothing there": (lambda: None, ["--resume"], "holds no snapshot"),
    "no such snapshot": (lambda: None, ["--snapshot=w/5"], "w/5: is not a snapshot"),
    "no such weights": (lambda: None, ["--weights=w.caffemodel"], r"w\.caffemodel"),
    "weights of another net": (
        lambda: write_weights("w.caffemodel", "conv1", "fc8"),
        ["--weights=w.caffemodel"],
        r"w\.caffemodel: holds weights of none of the net's layers, but of conv1, fc8\."
        " Accepted: .*: conv, ip1, bn, ip2",
    ),
    "unknown config field": (
        lambda: None,
        ["--config.data.shufle=True"],
        r'unknown field "data\.shufle".*data\.shuffle',
    ),
    "config value of another type": (
        lambda: None,
        ["--config.max_iter=many"],
        'max_iter.*"many" is not a whole number',
    ),
    "unknown flag": (lambda: None, ["--resme"], "resme.*resume"),
    "too many devices": (lambda: None, ["--config.devices=99"], "99 devices"),
    "unknown policy": (
        lambda: break_file("solver.prototxt", '"step"', '"stepp"'),
        [],
        r"stepp.*step",
    ),
    "solver without net": (
        lambda: break_file("solver.prototxt", 'net: "net.prototxt"', ""),
        [],
        "no training net",
    ),
}


def write_weights(path: str, *layers: str) -> None:
    net = caffe_pb2.NetParameter()
    for name in layers:
        net.layer.add(name=name).blobs.append(binary.array_to_blob(np.zeros(1)))
    pathlib.Path(path).write_bytes(net.SerializeToString())


def write_empty(path: str) -> None:
    os.mkdir(path)
    lmdb.open(path).close()


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_one_clear_error_before_anything_is_written(workspace, name):
    make, flags, pattern = MISTAKES[name]
    make()
    with pytest.raises(errors.CaffeError, match=pattern) as caught:
        main(["solver.prototxt", *flags])
    assert "\n" not in str(caught.value)
    assert checkpoint.steps("small_run/snapshots") == []


def test_mistake_at_the_command_line_is_one_line_and_status_1(workspace):
    os.remove("net.prototxt")
    process = start("solver.prototxt")
    _, text = process.communicate()
    assert process.returncode == 1
    assert "Traceback" not in text
    *before, last = text.splitlines()
    assert last.startswith("net.prototxt: ")
    # What comes before is the log, which ends with what was about to be done.
    assert before[-1].endswith("] Creating training net from net file: net.prototxt")


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


def test_new_run_where_snapshots_are_is_refused_unless_asked(workspace):
    config = load_config("solver.prototxt", ["workdir=w", "max_iter=5"])
    train(config)
    with pytest.raises(errors.ConfigError, match=r"--resume .*--overwrite"):
        train(config)
    assert checkpoint.steps("w/snapshots") == [5]
    break_file("net.prototxt", '"Pooling"', '"Poling"')
    with pytest.raises(errors.PrototxtError, match=r'^net\.prototxt:\d+: .*"Poling"'):
        train(config)
    break_file("net.prototxt", '"Poling"', '"Pooling"')
    train(config, overwrite=True)


def test_batch_that_devices_do_not_divide_names_sizes_that_work(workspace):
    break_file("net.prototxt", "batch_size: 8", "batch_size: 9")
    process = start(
        "solver.prototxt", XLA_FLAGS="--xla_force_host_platform_device_count=4"
    )
    _, text = process.communicate()
    assert process.returncode == 1
    assert "batch_size 9 cannot be divided over 4 devices" in text
    assert "batch_size 8 or 12" in text


def test_per_device_batch_is_multiplied_by_the_devices(workspace):
    opened = run.open_run(load_config("solver.prototxt", ["batch=per_device"]))
    assert opened.train.feeds[0].batch_size == 8
    scaled = fed_net.scale_batches(opened.train.net.graph, 4)
    data = next(n for n in scaled.nodes if n.layer.type == "Data")
    assert data.layer.data_param.batch_size == 32


def test_prepare_knows_every_data_set_that_configs_may_name():
    assert set(CHOICES["prepare"]) == {"", *PREPARE}
