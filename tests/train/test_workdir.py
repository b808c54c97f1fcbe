"""Runs in a workdir that another run uses or has left snapshots in."""

import pytest

from jaxcaffe import checkpoint, errors
from jaxcaffe.train import train
from whole_runs import break_file, load_config, start, wait_for_row


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


def test_overwrite_removes_nothing_before_the_run_is_known_to_start(workspace):
    train(load_config("solver.prototxt", ["workdir=w", "max_iter=5"]))
    break_file("net.prototxt", '"Pooling"', '"Poling"')
    with pytest.raises(errors.PrototxtError, match="Poling"):
        train(load_config("solver.prototxt", ["workdir=w"]), overwrite=True)
    assert checkpoint.steps("w/snapshots") == [5]


def test_second_run_in_a_workdir_is_refused_while_the_first_goes_on(workspace):
    process = start("solver.prototxt", "--config.max_iter=100000")
    wait_for_row("small_run/scalars.jsonl", 2, process)
    with pytest.raises(errors.ConfigError, match="another run uses this workdir"):
        train(load_config("solver.prototxt"), overwrite=True)
    process.kill()
    process.communicate()


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
