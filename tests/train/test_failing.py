"""Runs that meet a bad record or numbers that are not finite."""

import lmdb
import pytest

from jaxcaffe import checkpoint, errors, log
from jaxcaffe.train import train
from whole_runs import break_file, load_config


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


def test_loss_not_finite_stops_with_iteration_and_layer(workspace):
    text = (workspace / "solver.prototxt").read_text()
    text = text.replace("base_lr: 0.05", "base_lr: 1e30").replace("snapshot: 5", "")
    (workspace / "solver.prototxt").write_text(text)
    with pytest.raises(
        errors.NonFiniteError, match=r"iteration \d+: the loss .* first seen in layer"
    ):
        train(load_config("solver.prototxt"))
    assert checkpoint.steps("small_run/snapshots") == []
