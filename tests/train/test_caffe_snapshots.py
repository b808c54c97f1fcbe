"""Whole runs that leave Caffe's snapshot files and go on from them."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import h5py
import jax
import numpy as np
import pytest

from jaxcaffe import checkpoint, run, sharding
from jaxcaffe.caffe_files import snapshots
from jaxcaffe.caffe_files.solverstate import export_history, read_solver_state
from jaxcaffe.caffe_files.weights import read_weights
from jaxcaffe.config import load_config
from jaxcaffe.errors import ConfigError, SnapshotError
from jaxcaffe.net.weights import export_weights
from jaxcaffe.proto import binary
from jaxcaffe.train import main, train


def change(path: str, old: str, new: str) -> None:
    text = pathlib.Path(path).read_text()
    assert old in text
    pathlib.Path(path).write_text(text.replace(old, new))


def without_closing_pass() -> None:
    """Ends runs without the forward pass that moves BatchNorm's statistics on."""
    change("solver.prototxt", "display: 1", "display: 3")


def names(pattern: str = "small_iter_*") -> list[str]:
    return sorted(path.name for path in pathlib.Path().glob(pattern))


def content() -> dict[str, bytes]:
    paths = [path for path in pathlib.Path().rglob("*") if path.is_file()]
    return {str(p): p.read_bytes() for p in paths if "_lmdb" not in str(p)}


def assert_equal_weights(ours, theirs):
    assert ours.keys() >= {name for name, blobs in theirs.items() if blobs}
    for name, blobs in theirs.items():
        for one, other in zip(ours.get(name, ()), blobs, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_snapshots_are_written_in_caffes_form_too(workspace, form):
    without_closing_pass()
    change("solver.prototxt", "snapshot: 5", f"snapshot: 5 snapshot_format: {form}")
    result = train(load_config("solver.prototxt", ["max_iter=8"]))
    end = ".h5" if form == "HDF5" else ""
    kind = "HDF5" if form == "HDF5" else "binary proto"
    assert names() == sorted(
        f"small_iter_{i}.{what}{end}"
        for i in (5, 8)
        for what in ("caffemodel", "solverstate")
    )
    log = pathlib.Path("small_run/train.log").read_text()
    for line in (
        f"] Snapshotting to {kind} file small_iter_5.caffemodel{end}\n",
        f"] Snapshotting solver state to {kind} file small_iter_8.solverstate{end}\n",
    ):
        assert line in log

    net = run.open_run(load_config("solver.prototxt")).train.net
    state = result.state
    exported = export_weights(net, state.params, state.stats)
    assert_equal_weights(read_weights(f"small_iter_8.caffemodel{end}"), exported)
    held = read_solver_state(f"small_iter_8.solverstate{end}")
    assert (held.iter, held.current_step) == (8, 0)
    assert held.learned_net == f"small_iter_8.caffemodel{end}"
    history = export_history(net, state.opt_state.history)
    for ours, theirs in zip(held.history, history, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_run_goes_on_from_caffes_state_with_its_records_from_the_start(workspace, form):
    without_closing_pass()
    change("solver.prototxt", "snapshot: 5", f"snapshot: 5 snapshot_format: {form}")
    train(load_config("solver.prototxt", ["max_iter=5"]))
    before = checkpoint.restore(
        "small_run/snapshots/5",
        run.state_struct(run.open_run(load_config("solver.prototxt"))),
        sharding.replicated(sharding.make_mesh(0)),
    )[0]
    end = ".h5" if form == "HDF5" else ""
    config = load_config("solver.prototxt", ["max_iter=5", "workdir=on"])
    # At max_iter only the end of the run is left, and the state is what was read.
    after = train(config, snapshot=f"small_iter_5.solverstate{end}").state
    for name in ("iter", "params", "stats", "opt_state"):
        ours, theirs = (jax.tree.leaves(getattr(s, name)) for s in (after, before))
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)

    config = load_config("solver.prototxt", ["max_iter=7", "workdir=further"])
    result = train(config, snapshot=f"small_iter_5.solverstate{end}")
    assert int(result.state.iter) == 7
    note = checkpoint.read_note("further/snapshots/7")
    assert note["positions"]["train"] == {"data": 16}
    log = pathlib.Path("further/train.log").read_text()
    assert f"] Resuming from small_iter_5.solverstate{end}\n" in log
    assert "data layers start at record 0, as in Caffe" in log
    assert f"small_iter_7.solverstate{end}" in names()


def test_weights_of_a_state_moved_elsewhere_are_found_beside_it(workspace):
    train(load_config("solver.prototxt", ["max_iter=5"]))
    os.mkdir("moved")
    for name in names():
        shutil.move(name, f"moved/{name}")
    config = load_config("solver.prototxt", ["max_iter=6", "workdir=w"])
    assert main_succeeds("--snapshot=moved/small_iter_5.solverstate", config=config)
    os.remove("moved/small_iter_5.caffemodel")
    with pytest.raises(
        SnapshotError,
        match=r"small_iter_5\.caffemodel are neither there, .* nor at moved/small_iter",
    ):
        train(config, snapshot="moved/small_iter_5.solverstate", overwrite=True)


def main_succeeds(*flags: str, config) -> bool:
    fields = [f"--config.{n}={config[n]}" for n in ("max_iter", "workdir")]
    return main(["solver.prototxt", *flags, *fields]) == 0


def test_weights_in_hdf5_start_a_run(workspace):
    without_closing_pass()
    change("solver.prototxt", "snapshot: 5", "snapshot: 5 snapshot_format: HDF5")
    first = train(load_config("solver.prototxt", ["max_iter=5"])).state
    config = load_config(
        "solver.prototxt", ["weights=small_iter_5.caffemodel.h5", "workdir=w"]
    )
    opened = run.open_run(config)
    fresh = run.make_state(opened)
    params, stats = run.load_weight_files(
        opened.train.net, fresh.params, fresh.stats, ["small_iter_5.caffemodel.h5"]
    )
    for ours, theirs in zip(
        jax.tree.leaves((params, stats)),
        jax.tree.leaves((first.params, first.stats)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_snapshot_diff_writes_what_the_last_update_took_away(workspace):
    change("solver.prototxt", "snapshot: 5", "snapshot: 1 snapshot_diff: true")
    train(load_config("solver.prototxt", ["max_iter=2"]))
    one, two = (
        binary.read_caffemodel(f"small_iter_{i}.caffemodel").layer for i in (1, 2)
    )
    for before, after in zip(one, two, strict=True):
        for old, new in zip(before.blobs, after.blobs, strict=True):
            diff = binary.blob_to_diff(new)
            assert diff is not None
            if after.type == "BatchNorm":
                assert not np.any(diff)
                continue
            old, new = binary.blob_to_array(old), binary.blob_to_array(new)
            np.testing.assert_allclose(old - diff, new, rtol=0, atol=1e-7)
            assert np.any(diff)


def test_caffes_files_may_be_left_out(workspace):
    change("solver.prototxt", "snapshot: 5", "snapshot: 5 snapshot_diff: true")
    train(load_config("solver.prototxt", ["max_iter=5", "snapshot.caffe=False"]))
    assert names() == []
    log = pathlib.Path("small_run/train.log").read_text()
    assert "solver field snapshot_diff: snapshots hold no gradients" in log


def test_new_run_where_caffes_files_are_is_refused_unless_asked(workspace):
    train(load_config("solver.prototxt", ["max_iter=5"]))
    before = content()
    elsewhere = load_config("solver.prototxt", ["max_iter=6", "workdir=other"])
    with pytest.raises(
        ConfigError,
        match=r"small_iter_5\.\w+: is there already.*--overwrite.*caffe=fal",
    ):
        train(elsewhere)
    assert content() == before
    # What the run would not reach, and what has another form, is not in the way.
    train(load_config("solver.prototxt", ["max_iter=4", "workdir=short"]))
    change("solver.prototxt", "snapshot: 5", "snapshot: 5 snapshot_format: HDF5")
    train(load_config("solver.prototxt", ["max_iter=5", "workdir=hdf5"]))
    change("solver.prototxt", "snapshot_format: HDF5", "")
    train(elsewhere, overwrite=True)
    assert "small_iter_6.solverstate" in names()


def test_killed_run_goes_on_over_its_own_later_files(workspace):
    config = ["max_iter=400", "workdir=cut", "snapshot.keep=0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxcaffe.train", "solver.prototxt"]
        + [f"--config.{field}" for field in config],
        stderr=subprocess.DEVNULL,
    )
    while not names("small_iter_20.solverstate"):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL
    # The newest of ours lost, Caffe's files of that iteration lie ahead.
    newest = checkpoint.steps("cut/snapshots")[-1]
    shutil.rmtree(f"cut/snapshots/{newest}")
    train(load_config("solver.prototxt", [*config[1:], "max_iter=420"]), resume=True)
    assert read_solver_state("small_iter_420.solverstate").iter == 420
    # Another run with the same prefix has no such right.
    with pytest.raises(ConfigError, match="would write over it"):
        train(
            load_config("solver.prototxt", ["workdir=other", "max_iter=420"]),
            snapshot="cut/snapshots/400",
        )
    assert not [name for name in os.listdir() if name.endswith(".part")]


REFUSED = {
    "weights": (
        "small_iter_5.caffemodel",
        r"holds weights alone.*Accepted: small_iter_5\.solverstate; or --weights=",
    ),
    "missing": ("small_iter_6.solverstate", "no such file"),
    "empty": ("empty.solverstate", "the file is empty"),
    "cut": ("cut.solverstate", "cut short"),
    "text": ("net.prototxt", "no binary SolverState|names no iteration"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_snapshot_that_is_no_state_is_explained_before_anything(workspace, kind):
    train(load_config("solver.prototxt", ["max_iter=5"]))
    pathlib.Path("empty.solverstate").write_bytes(b"")
    data = pathlib.Path("small_iter_5.solverstate").read_bytes()
    pathlib.Path("cut.solverstate").write_bytes(data[: len(data) // 2])
    before = content()
    path, message = REFUSED[kind]
    with pytest.raises(SnapshotError, match=message):
        train(load_config("solver.prototxt", ["workdir=w"]), snapshot=path)
    assert content() == before


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "solver.prototxt",
            "momentum: 0.9",
            'momentum: 0.9 type: "Adam"',
            'holds 9 history blobs, but solver type "Adam" keeps two .* 18',
        ),
        (
            "net.prototxt",
            "num_output: 32",
            "num_output: 31",
            r'history blob 2 .*\(32, 200\), but .* "ip1" has \(31, 200\)',
        ),
        (
            "net.prototxt",
            'name: "ip2" type',
            'name: "renamed" type',
            r'caffemodel: holds no weights for "renamed"',
        ),
    ],
    ids=["solver type", "shape", "layer"],
)
def test_state_of_other_solver_or_net_is_named_and_nothing_overwritten(
    workspace, file, old, new, message
):
    train(load_config("solver.prototxt", ["max_iter=5"]))
    files = names()
    change(file, old, new)
    with pytest.raises(SnapshotError, match=message):
        train(
            load_config("solver.prototxt"),
            snapshot="small_iter_5.solverstate",
            overwrite=True,
        )
    assert checkpoint.steps("small_run/snapshots") == [5]
    assert names() == files


def test_prefix_that_cannot_be_written_is_refused_before_training(workspace):
    pathlib.Path("file").write_text("")
    change("solver.prototxt", 'prefix: "small"', 'prefix: "file/small"')
    with pytest.raises(SnapshotError, match="snapshot_prefix file/small: no file can"):
        train(load_config("solver.prototxt", ["workdir=w"]))
    assert not pathlib.Path("w").exists()


@pytest.mark.parametrize("lasting", [False, True])
def test_failed_write_is_told_and_costs_the_run_nothing_else(
    workspace, monkeypatch, lasting
):
    write = snapshots.write_solver_state

    def fail(path, state):
        if lasting or state.iter == 5:
            raise OSError(28, "No space left on device")
        write(path, state)

    monkeypatch.setattr(snapshots, "write_solver_state", fail)
    config = load_config("solver.prototxt", ["max_iter=12"])
    if lasting:
        with pytest.raises(SnapshotError, match=r"could not be written.*No space left"):
            train(config)
    else:
        assert int(train(config).state.iter) == 12
        assert names("*.solverstate") == [
            "small_iter_10.solverstate",
            "small_iter_12.solverstate",
        ]
    log = pathlib.Path("small_run/train.log").read_text()
    assert log.count("could not be written") == (3 if lasting else 1)
    assert "Optimization Done." in log


def test_writing_goes_on_beside_training(workspace, monkeypatch):
    """The write is held up until the run has made its last step."""
    config = load_config("solver.prototxt", ["max_iter=8", "snapshot.keep=0"])
    change("solver.prototxt", "snapshot: 5", "snapshot: 7")
    held, write = threading.Event(), snapshots.write_solver_state
    steps = []

    def wait_and_write(path, state):
        assert held.wait(60)
        write(path, state)

    def poll_all(compile_train_step=run.compile_train_step):
        def compile_counting(opened):
            step = compile_train_step(opened)

            def count(state, batch):
                steps.append(1)
                if len(steps) == 8:
                    held.set()
                return step(state, batch)

            return count

        return compile_counting

    monkeypatch.setattr(snapshots, "write_solver_state", wait_and_write)
    monkeypatch.setattr(run, "compile_train_step", poll_all())
    train(config)
    assert read_solver_state("small_iter_7.solverstate").iter == 7
    # The values are those of iteration 7, though iteration 8 has used up its arrays.
    ours = read_weights("small_iter_7.caffemodel")
    opened = run.open_run(config)
    state, _ = checkpoint.restore(
        "small_run/snapshots/7",
        run.state_struct(opened),
        sharding.replicated(opened.mesh),
    )
    net = opened.train.net
    assert_equal_weights(ours, export_weights(net, state.params, state.stats))


def test_hdf5_snapshot_holds_groups_for_all_layers(workspace):
    change("solver.prototxt", "snapshot: 5", "snapshot: 5 snapshot_format: HDF5")
    train(load_config("solver.prototxt", ["max_iter=5"]))
    with h5py.File("small_iter_5.caffemodel.h5") as file:
        assert {"data", "conv", "relu", "bn", "loss"} <= set(file["data"])
        assert list(file["data/bn"]) == ["0", "1", "2"]
        assert list(file) == ["data"]
