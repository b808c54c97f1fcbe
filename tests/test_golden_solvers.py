"""SGD runs recorded from Caffe, replayed iteration by iteration.

Each case has its net, solver, data, first weights, and what Caffe computed. Another
folder of cases can be named by the environment variable JAXCAFFE_GOLDEN_SOLVERS.
"""

import json
import os
import pathlib

import numpy as np
import pytest

from jaxcaffe import loop, run
from jaxcaffe.config import load_config
from jaxcaffe.net.weights import export_weights
from jaxcaffe.signals import Requests

FOLDER = pathlib.Path(
    os.environ.get("JAXCAFFE_GOLDEN_SOLVERS")
    or pathlib.Path(__file__).parent / "golden" / "solvers"
)
CASES = sorted(
    path.parent.name
    for path in FOLDER.glob("*/case.json")
    if json.loads(path.read_text())["type"] == "SGD"
)

# Caffe sums in OpenBLAS's order, we in XLA's; a difference of one ulp grows with every
# update. case.json tells how much an ulp in the first weights did to Caffe's own run.
EARLY, LATE, WEIGHTS, SCORES = 1e-4, 1e-3, 1e-3, 1e-3


@pytest.fixture(params=CASES)
def case(request, monkeypatch):
    folder = FOLDER / request.param
    monkeypatch.chdir(folder)
    meta = json.loads((folder / "case.json").read_text())
    opened = run.open_run(load_config("solver.prototxt"))
    state = run.make_state(opened)
    params, stats = run.load_weight_files(
        opened.train.net, state.params, state.stats, ["init.caffemodel"]
    )
    return meta, opened, state._replace(params=params, stats=stats)


def test_golden_run_losses_weights_and_scores_equal_caffes(case):
    meta, opened, state = case
    slack = 10 * meta["sensitivity"]["losses"]
    train_step = run.compile_train_step(opened)
    feed = run.open_device_feed(opened, opened.train)
    jobs = [
        loop.TestJob(
            net=fed.net,
            eval_step=run.compile_eval_step(opened, fed),
            zero_sums=run.make_zero_sums(opened, fed),
            own=({}, {}),
            feed=run.open_device_feed(opened, fed),
            test_iter=fed.test_iter,
        )
        for fed in opened.tests
    ]
    expected_scores = json.loads(pathlib.Path("test_scores.json").read_text())
    losses, rates, scores = [], [], []
    try:
        for iteration in range(meta["max_iter"] + 1):
            wanted = [s["test_net"] for s in expected_scores if s["iter"] == iteration]
            for index in wanted:
                sums, _ = loop.run_test(
                    jobs[index], index, state, iteration, never_asked
                )
                means = {k: v / jobs[index].test_iter for k, v in sums.items() if k}
                scores.append((iteration, index, means))
            if iteration == meta["max_iter"]:
                break
            rates.append(float(opened.schedule(iteration)))
            state, report = train_step(state, next(feed))
            assert float(report.rate) == rates[-1]
            losses.append(float(report.outputs["loss"]))
    finally:
        feed.close()
        for job in jobs:
            job.feed.close()

    np.testing.assert_allclose(rates, np.load("lrs.npy"), rtol=1e-6)
    golden = np.load("losses.npy")
    error = np.abs(losses - golden) / np.maximum(np.abs(golden), 1e-2)
    assert error[:20].max() <= EARLY + slack
    assert error.max() <= LATE + slack

    slack = 10 * meta["sensitivity"]["weights"]
    final = np.load("final.npz")
    ours = export_weights(opened.train.net, state.params, state.stats)
    ours = {f"{name}/{i}": b for name, bs in ours.items() for i, b in enumerate(bs)}
    assert sorted(ours) == sorted(final.files)
    for name, theirs in final.items():
        assert ours[name].shape == theirs.shape
        worst = np.abs(ours[name] - theirs).max() / max(np.abs(theirs).max(), 1e-3)
        assert worst <= WEIGHTS + slack, name

    assert len(scores) == len(expected_scores)
    for (iteration, index, means), score in zip(scores, expected_scores, strict=True):
        assert (iteration, index) == (score["iter"], score["test_net"])
        assert sorted(means) == sorted(score["mean"])
        for name, value in score["mean"].items():
            np.testing.assert_allclose(
                np.ravel(means[name]), value, rtol=SCORES + slack, atol=SCORES
            )


def test_golden_cases_are_found():
    assert len(CASES) >= 10


def never_asked() -> Requests:
    return Requests(False, False)
