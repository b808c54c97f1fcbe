"""Runs of all solver types recorded from Caffe, trained here from the same weights.

Each case has its net, solver, data, first weights, and what Caffe computed. Another
folder of cases can be named by the environment variable JAXCAFFE_GOLDEN_SOLVERS.
"""

import json
import os
import pathlib
import re

import jax
import numpy as np
import pytest

from jaxcaffe import log, run
from jaxcaffe.config import load_config
from jaxcaffe.net.weights import export_weights
from jaxcaffe.train import train

FOLDER = pathlib.Path(
    os.environ.get("JAXCAFFE_GOLDEN_SOLVERS")
    or pathlib.Path(__file__).parent / "golden" / "solvers"
)
CASES = sorted(path.parent.name for path in FOLDER.glob("*/case.json"))

# Caffe sums in OpenBLAS's order, we in XLA's; a difference of one ulp grows with every
# update. case.json tells how much an ulp in the first weights did to Caffe's own run.
EARLY, LATE, WEIGHTS, SCORES = 1e-4, 1e-3, 1e-3, 1e-3

# A line of the log: what is shown of iteration N, or of a test.
SHOWN = re.compile(
    r"\] Iteration (?P<i>\d+)(?: \(.*\))?, (?P<kind>loss|lr) = (?P<value>\S+)$"
    r"|\] Iteration (?P<test_i>\d+), Testing net \(#(?P<net>\d+)\)$"
    r"|\] (?P<loss>Test loss): (?P<test_loss>\S+)$"
    r"|\]     Test net output #\d+: (?P<name>\S+) = (?P<score>\S+)"
)


class Watched:
    """What the training steps of a run gave, one by one."""

    def __init__(self, monkeypatch):
        self.reports, self.weights = [], {}
        compile_train_step = run.compile_train_step

        def compile_and_watch(opened):
            step = compile_train_step(opened)

            def watched(state, batch):
                state, report = step(state, batch)
                self.reports.append(report)
                if len(self.reports) == opened.max_iter:
                    net, params, stats = opened.train.net, state.params, state.stats
                    arrays = export_weights(net, *jax.device_get((params, stats)))
                    self.weights = {
                        f"{layer}/{i}": blob
                        for layer, blobs in arrays.items()
                        for i, blob in enumerate(blobs)
                    }
                return state, report

            return watched

        monkeypatch.setattr(run, "compile_train_step", compile_and_watch)

    def outputs(self, name):
        return np.array([np.asarray(r.outputs[name]) for r in self.reports])


@pytest.mark.parametrize("case", CASES)
def test_golden_run_is_caffes(case, monkeypatch, tmp_path):
    monkeypatch.chdir(FOLDER / case)
    meta = read_json("case.json")
    watched = Watched(monkeypatch)
    settings = ["weights=init.caffemodel", f"workdir={tmp_path}"]
    train(load_config("solver.prototxt", [*settings, "snapshot.caffe=False"]))

    rates = [np.asarray(report.rate) for report in watched.reports]
    np.testing.assert_allclose(rates, np.load("lrs.npy"), rtol=1e-6)

    slack = 10 * meta["sensitivity"]["losses"]
    wanted = {"loss": np.load("losses.npy")}
    if os.path.exists("train_outputs.npz"):
        wanted |= np.load("train_outputs.npz")
    for name, theirs in wanted.items():
        theirs = theirs.reshape(len(rates))
        error = relative_error(watched.outputs(name), theirs)
        assert error[:20].max() <= EARLY + slack, name
        assert error.max() <= LATE + slack, name

    check_scores(read_json("test_scores.json"), tmp_path, SCORES + slack)
    shown = read_shown((tmp_path / "train.log").read_text())
    check_shown(shown, read_json("displayed.json")["train"], LATE + slack)

    slack = 10 * meta["sensitivity"]["weights"]
    final = np.load("final.npz")
    assert sorted(watched.weights) == sorted(final.files)
    for name, theirs in final.items():
        ours = watched.weights[name]
        assert ours.shape == theirs.shape
        worst = np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-3)
        assert worst <= WEIGHTS + slack, name


def check_scores(expected, workdir, rtol):
    """Compares every test, the closing one included."""
    rows = [
        row
        for row in log.read_scalars(str(workdir / "scalars.jsonl"))
        if any(name.startswith("test") for name in row)
    ]
    assert len(rows) == len(expected)
    for row, score in zip(rows, expected, strict=True):
        prefix = f"test{score['test_net']}/"
        assert row.pop("iter") == score["iter"]
        assert sorted(row) == sorted(prefix + name for name in score["mean"])
        for name, value in score["mean"].items():
            np.testing.assert_allclose(
                np.ravel(row[prefix + name]), value, rtol=rtol, atol=SCORES
            )


def check_shown(shown, expected, rtol):
    """Compares [iteration, value] or [iteration, net, name, value] of the log."""
    assert shown.keys() == expected.keys()
    for kind, rows in expected.items():
        assert [row[:-1] for row in shown[kind]] == [row[:-1] for row in rows], kind
        ours, theirs = ([row[-1] for row in each] for each in (shown[kind], rows))
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=SCORES, err_msg=kind)


def read_shown(text):
    shown, iteration, net = {"loss": [], "lr": [], "tests": []}, 0, 0
    for line in text.splitlines():
        found = SHOWN.search(line)
        if found is None:
            continue
        if found["kind"]:
            shown[found["kind"]].append([int(found["i"]), float(found["value"])])
        elif found["test_i"]:
            iteration, net = int(found["test_i"]), int(found["net"])
        else:
            name = "(test loss)" if found["loss"] else found["name"]
            value = float(found["test_loss"] or found["score"])
            shown["tests"].append([iteration, net, name, value])
    return shown


def relative_error(ours, theirs):
    return np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1e-2)


def read_json(name):
    return json.loads(pathlib.Path(name).read_text())


def test_golden_cases_are_of_every_solver_type():
    types = {json.loads((FOLDER / c / "case.json").read_text())["type"] for c in CASES}
    assert types == {"SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"}
