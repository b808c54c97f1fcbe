"""Snapshots written beside a run, and disks that refuse them."""

import logging
import os
import resource
import threading

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore as ts

from jaxcaffe import checkpoint, log
from jaxcaffe.checkpoint import write as module
from jaxcaffe.checkpoint.arrays import write_tree


def test_save_returns_before_the_snapshot_is_there(tmp_path, make_state, monkeypatch):
    go = threading.Event()
    commit = module.folders.commit
    monkeypatch.setattr(
        module.folders, "commit", lambda *args: (go.wait(60), commit(*args))[1]
    )
    folder = str(tmp_path / "s")
    writer = checkpoint.open_writer(folder, 0)
    assert writer.save(make_state(4), {"seed": 1}) == os.path.join(folder, "4")
    assert checkpoint.steps(folder) == []
    go.set()
    assert writer.wait() is None
    assert checkpoint.steps(folder) == [4]
    writer.close()


def test_completion_is_logged_after_the_snapshot_is_there(tmp_path, make_state, caplog):
    folder = str(tmp_path / "s")
    there = []

    class Watch(logging.Handler):
        def emit(self, record):
            if "is complete" in record.getMessage():
                there.append(checkpoint.steps(folder))

    watch = Watch()
    log.logger.addHandler(watch)
    caplog.set_level(logging.INFO, "jaxcaffe")
    try:
        writer = checkpoint.open_writer(folder, 0)
        writer.save(make_state(4), {})
        writer.close()
    finally:
        log.logger.removeHandler(watch)
    assert there == [[4]]


def test_snapshot_is_read_by_orbax_and_by_tensorstore_alone(write):
    path = os.path.abspath(os.path.join(write(4), "4", "state"))
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.restore(path)
    np.testing.assert_array_equal(tree["params"]["ip"]["weight"], np.full((3, 2), 5.0))
    assert (tree["iter"].shape, tree["iter"].dtype, tree["iter"]) == ((), np.int32, 4)
    folder = os.path.join(path, "params.ip.weight")
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": folder}}
    array = ts.open(spec).result().read().result()
    np.testing.assert_array_equal(array, np.full((3, 2), 5.0))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
        np.zeros((0, 4), np.float32),
        np.array(True),
        np.arange(5, dtype=np.uint32),
        np.arange(6, dtype=np.float64).reshape(1, 6, 1),
    ],
    ids=["strided", "empty", "bool", "uint32", "float64"],
)
def test_tree_of_any_array_comes_back(tmp_path, array):
    write_tree(str(tmp_path), {"a": (array,)})
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{tmp_path}/a.0"}}
    found = ts.open(spec).result().read().result()
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_copied_state_outlives_the_donation_of_its_original(tmp_path, make_state):
    state = make_state(4)
    copied = checkpoint.copy_state(state)
    spoil = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)
    jax.block_until_ready(spoil(state))
    assert state.params["ip"]["weight"].is_deleted()
    np.testing.assert_array_equal(copied.params["ip"]["weight"], np.full((3, 2), 5.0))


def test_newest_are_kept_and_older_ones_go_after_the_next_is_complete(write):
    folder = write(1, 2, 3, 4, keep=2)
    assert sorted(os.listdir(folder)) == ["3", "4"]


def test_iteration_that_is_there_is_not_written_again(write, make_state):
    folder = write(3)
    before = os.stat(os.path.join(folder, "3")).st_mtime_ns
    writer = checkpoint.open_writer(folder, 1)
    writer.save(make_state(3), {"seed": 2})
    assert writer.wait() is None
    writer.close()
    assert os.stat(os.path.join(folder, "3")).st_mtime_ns == before
    assert checkpoint.read_note(os.path.join(folder, "3"))["seed"] == 1


@pytest.fixture
def limit_files():
    """Returns limit(size): files over that many bytes cannot be written by us."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


# Orbax's coroutines end with complaints of their own.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_snapshot_that_does_not_fit_is_an_error_in_the_log_and_the_next_is_tried(
    write, make_state, limit_files, caplog
):
    folder = write(1, 2)
    writer = checkpoint.open_writer(folder, 2)
    large, small = make_state(3, rows=400), make_state(4)
    # The first files fit, the last do not.
    limit_files(600)
    writer.save(large, {})
    failure = writer.wait()
    assert "iteration 3 could not be written (File too large)" in str(failure)
    assert "the newest whole one is 2" in str(failure)
    assert caplog.records[-1].levelno == logging.ERROR
    assert "tries again" in caplog.records[-1].getMessage()
    assert checkpoint.steps(folder) == [1, 2]  # nothing is lost

    limit_files(resource.RLIM_INFINITY)
    writer.save(small, {})
    assert writer.wait() is None
    writer.close()
    assert sorted(os.listdir(folder)) == ["2", "4"]  # and nothing half is left


def test_old_snapshots_that_cannot_be_removed_are_only_a_warning(
    tmp_path, make_state, monkeypatch, caplog
):
    def refuse(folder, step):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(module.folders, "remove", refuse)
    folder = str(tmp_path / "s")
    writer = checkpoint.open_writer(folder, 1)
    for iteration in (1, 2):
        writer.save(make_state(iteration), {})
    assert writer.wait() is None
    writer.close()
    assert checkpoint.steps(folder) == [1, 2]
    assert "cannot be removed (Operation not permitted)" in caplog.text
