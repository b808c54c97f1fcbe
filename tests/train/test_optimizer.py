"""Whole runs whose updates are those of an optax transformation."""

import pathlib

import jax
import numpy as np
import pytest

from jaxcaffe import checkpoint, log, run
from jaxcaffe.config import load_config
from jaxcaffe.errors import ConfigError, SnapshotError
from jaxcaffe.train import train

CONFIG = """
import optax
from jaxcaffe.config import default_config

def get_config():
    config = default_config()
    config.solver = "solver.prototxt"
    config.optimizer = OPTIMIZER
    return config
"""


@pytest.mark.parametrize(
    "optimizer",
    ["optax.lion", "lambda rate: optax.chain(optax.clip(1.0), optax.adamw(rate))"],
)
def test_run_with_an_optimizer_of_optax_learns_and_resumes_exactly(
    workspace, optimizer
):
    pathlib.Path("config.py").write_text(CONFIG.replace("OPTIMIZER", optimizer))
    rate = pathlib.Path("solver.prototxt").read_text().replace("0.05", "0.01", 1)
    pathlib.Path("solver.prototxt").write_text(rate)
    options = ["max_iter=20", "snapshot.keep=0"]
    whole = train(load_config("config.py", [*options, "workdir=whole"]))
    losses = [r["loss"] for r in log.read_scalars("whole/scalars.jsonl") if "loss" in r]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    # Caffe has no history for it, but reads its weights.
    assert pathlib.Path("small_iter_20.caffemodel").exists()
    assert not list(pathlib.Path().glob("*.solverstate"))

    options += ["workdir=cut", "snapshot.caffe=False"]
    cut = train(load_config("config.py", options), snapshot="whole/snapshots/10")
    jax.tree.map(np.testing.assert_array_equal, cut.state, whole.state)


def test_optimizer_named_on_the_command_line_makes_the_updates(workspace):
    options = ["max_iter=1", "snapshot.caffe=False", "optimizer=optax.sign_sgd"]
    opened = run.open_run(load_config("solver.prototxt", options))
    start = run.make_state(opened)
    state = train(load_config("solver.prototxt", options)).state
    moved = state.params["ip2"]["weight"] - start.params["ip2"]["weight"]
    # Each by base_lr, whatever its gradient.
    np.testing.assert_allclose(np.abs(moved), 0.05, rtol=1e-4)
    assert "Updates are those of" in pathlib.Path("small_run/train.log").read_text()


def test_snapshot_of_another_optimizer_is_named(workspace):
    train(load_config("solver.prototxt", ["max_iter=5", "optimizer=optax.lion"]))
    options = ["max_iter=6", "workdir=other", "snapshot.caffe=False"]
    for optimizer in ("optax.adam", ""):
        config = load_config("solver.prototxt", [*options, f"optimizer={optimizer}"])
        with pytest.raises(SnapshotError, match="lion"):
            train(config, snapshot="small_run/snapshots/5")
    assert checkpoint.steps("small_run/snapshots") == [5]


def test_solverstate_of_caffe_with_an_optimizer_is_refused(workspace):
    train(load_config("solver.prototxt", ["max_iter=5"]))
    config = load_config("solver.prototxt", ["optimizer=optax.lion"])
    with pytest.raises(ConfigError, match=r"config\.optimizer has none"):
        train(config, snapshot="small_iter_5.solverstate")
