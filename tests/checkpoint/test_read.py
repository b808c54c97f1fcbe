"""What a snapshot gives back, to which nets and solvers, and when it is damaged."""

import logging
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe import checkpoint, errors, sharding
from jaxcaffe.checkpoint import note


@pytest.fixture
def whole():
    return sharding.replicated(sharding.make_mesh(1))


def cut(path: str, share: float) -> None:
    """Cuts every file below `path` to a share of its length."""
    for file in pathlib.Path(path).rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])


def test_restore_gives_back_every_leaf_and_the_note(write, make_state, whole):
    hidden = ({"lstm": {"h": jnp.arange(6.0).reshape(2, 3)}}, {})
    folder = write(4, hidden=hidden, note={"seed": 7, "positions": {"train": {"d": 3}}})
    like = jax.eval_shape(lambda: make_state(0, hidden=hidden))
    state, note = checkpoint.restore(os.path.join(folder, "4"), like, whole)
    expected = make_state(4, hidden=hidden)
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert note == {"seed": 7, "positions": {"train": {"d": 3}}}


def test_hidden_states_that_fit_are_restored_and_others_start_anew(
    write, make_state, whole, caplog
):
    def hidden(rows):
        return {"lstm": {"h": jnp.ones((rows, 3)), "c": jnp.ones((rows, 3))}}

    folder = write(4, hidden=(hidden(2), hidden(5)))
    like = make_state(0, hidden=(hidden(2), hidden(6), {}))
    state, _ = checkpoint.restore(os.path.join(folder, "4"), like, whole)
    np.testing.assert_array_equal(state.hidden[0]["lstm"]["h"], np.ones((2, 3)))
    np.testing.assert_array_equal(state.hidden[1]["lstm"]["c"], np.zeros((6, 3)))
    assert state.hidden[2] == {}
    [record] = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert 'layers "lstm" of test net #1' in record.getMessage()


def test_snapshot_from_before_there_were_hidden_states_is_restored(
    write, make_state, whole, caplog
):
    folder = write(4)
    like = make_state(0, hidden=({"lstm": {"h": jnp.ones((2, 3))}},))
    state, _ = checkpoint.restore(os.path.join(folder, "4"), like, whole)
    assert int(state.iter) == 4
    np.testing.assert_array_equal(state.hidden[0]["lstm"]["h"], np.zeros((2, 3)))
    assert "starts anew" in caplog.text


def test_another_solver_type_is_named(write, make_state, whole):
    path = os.path.join(write(4, note={"solver_type": "Adam"}), "4")
    with pytest.raises(
        errors.SnapshotError, match=r'solver of type "Adam".*"SGD".*type: "Adam"'
    ):
        checkpoint.restore(path, make_state(0), whole, "SGD")
    checkpoint.restore(path, make_state(0), whole, "Adam")


def test_snapshot_that_says_no_solver_type_is_taken(write, make_state, whole):
    path = os.path.join(write(4), "4")
    state, _ = checkpoint.restore(path, make_state(0), whole, "SGD")
    assert int(state.iter) == 4


def test_other_shapes_and_layers_are_named(write, make_state, whole):
    path = os.path.join(write(4), "4")
    with pytest.raises(
        errors.SnapshotError,
        match=r"params/ip/weight has shape \(3, 2\), the run needs \(5, 2\)",
    ):
        checkpoint.restore(path, make_state(0, rows=5), whole)
    like = make_state(0)
    like = like._replace(stats={"norm": like.stats["bn"]})
    with pytest.raises(
        errors.SnapshotError,
        match=r"missing stats/norm/mean; superfluous stats/bn/mean",
    ):
        checkpoint.restore(path, like, whole)


@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_newest_cut_short_is_set_aside_and_the_one_before_taken(
    write, make_state, whole, caplog, share
):
    folder = write(1, 2)
    cut(os.path.join(folder, "2"), share)
    state, _, path = checkpoint.restore_latest(folder, make_state(0), whole)
    assert int(state.iter) == 1
    assert path == os.path.join(folder, "1")
    assert sorted(os.listdir(folder)) == ["1", "2.broken"]
    assert "2: the snapshot cannot be read" in caplog.text
    assert "Set aside as" in caplog.text


@pytest.mark.parametrize("part", ["state", "note"])
def test_newest_without_a_part_is_set_aside(write, make_state, whole, part):
    folder = write(1, 2)
    os.rename(os.path.join(folder, "2", part), os.path.join(folder, "moved"))
    state, _, _ = checkpoint.restore_latest(folder, make_state(0), whole)
    assert int(state.iter) == 1
    assert os.path.isdir(os.path.join(folder, "2.broken"))


def test_no_snapshot_is_set_aside_when_all_are_broken(write, make_state, whole):
    folder = write(1, 2)
    cut(folder, 0.5)
    with pytest.raises(errors.SnapshotError) as caught:
        checkpoint.restore_latest(folder, make_state(0), whole)
    assert "2: the snapshot cannot be read" in str(caught.value)
    assert len(str(caught.value)) < 400 + len(folder)
    assert checkpoint.steps(folder) == [1, 2]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("one\ntwo", "one"),
        ("", "ValueError"),
        ("x" * 300 + "why [tensorstore_spec='{}']", "... " + "x" * 197 + "why"),
        ("why. See full TensorStore details: <bound method>", "why"),
    ],
)
def test_first_line_of_a_librarys_error_is_its_reason(said, expected):
    assert note.first_line(ValueError(said)) == expected


def test_folder_without_snapshots_says_so(tmp_path, make_state, whole):
    with pytest.raises(errors.SnapshotError, match="holds no snapshot to resume from"):
        checkpoint.restore_latest(str(tmp_path), make_state(0), whole)
    with pytest.raises(errors.SnapshotError, match="holds no snapshot to resume from"):
        checkpoint.read_newest_note(str(tmp_path))


@pytest.mark.parametrize("name", ["missing", "4.partial", "other"])
def test_what_is_no_snapshot_is_refused(write, make_state, whole, name):
    folder = write(4)
    os.rename(os.path.join(folder, "4"), os.path.join(folder, "4.partial"))
    os.mkdir(os.path.join(folder, "other"))
    path = os.path.join(folder, name)
    for read in (
        checkpoint.read_note,
        checkpoint.read_weights,
        lambda p: checkpoint.restore(p, make_state(0), whole),
    ):
        with pytest.raises(errors.SnapshotError, match=f"{name}: is not a snapshot"):
            read(path)


def test_weights_are_numpy_arrays_of_params_and_stats_alone(write):
    trees = checkpoint.read_weights(os.path.join(write(4), "4"))
    assert sorted(trees) == ["params", "stats"]
    weight = trees["params"]["ip"]["weight"]
    assert isinstance(weight, np.ndarray)
    np.testing.assert_array_equal(weight, np.full((3, 2), 5.0))
    np.testing.assert_array_equal(trees["stats"]["bn"]["mean"], [4.0, 4.0])


def test_renamed_snapshot_is_still_one(write, make_state, whole):
    folder = write(4)
    best = os.path.join(folder, "best")
    os.rename(os.path.join(folder, "4"), best)
    state, _ = checkpoint.restore(best, make_state(0), whole)
    assert int(state.iter) == 4
