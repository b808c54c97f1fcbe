"""The lines of debug_info against those that Caffe's `caffe train` printed."""

import json
import logging
import pathlib
import re

import jax
import numpy as np
import pytest

from jaxcaffe import run
from jaxcaffe.config import load_config
from jaxcaffe.debug_info import backward_lines, make_test_probe, make_train_probe
from jaxcaffe.log import logger
from jaxcaffe.net.backward import plan_backward
from jaxcaffe.net.graph import build_graph
from jaxcaffe.net.translate import build_net
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import parse_net
from jaxcaffe.train import train

GOLDEN = pathlib.Path(__file__).parent / "golden"
CASES = sorted(path.stem for path in (GOLDEN / "debug_info").glob("*.txt"))
NUMBER = re.compile(r"(?<= |\()-?(?:\d[\d.e+-]*|nan|inf)(?=$|,|\))")

# The lines have 6 digits; sums of float32 in another order differ by less.
RTOL, ATOL = 1e-4, 1e-6


@pytest.fixture
def lines():
    """What debug_info logs."""
    found = []

    class Handler(logging.Handler):
        def emit(self, record):
            text = record.getMessage()
            if text.startswith("    ["):
                found.append((record.levelname, text))

    handler, level = Handler(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(level)


def write_solver(case, path):
    """The solver with which Caffe made the lines."""
    text = (GOLDEN / "solvers" / case / "solver.prototxt").read_text()
    dropped = "max_iter|display|snapshot|debug_info|test_i|average_loss"
    kept = [line for line in text.splitlines() if not re.match(dropped, line)]
    kept += ["max_iter: 3 display: 2 debug_info: true snapshot_after_train: false"]
    kept += ["test_iter: 2 test_interval: 3"]
    path.write_text("\n".join(kept))
    return str(path)


def compare(found, expected):
    assert [NUMBER.sub("#", line) for _, line in found] == [
        NUMBER.sub("#", line) for line in expected
    ]
    for (_, ours), theirs in zip(found, expected, strict=True):
        a, b = ([float(n) for n in NUMBER.findall(x)] for x in (ours, theirs))
        np.testing.assert_allclose(a, b, RTOL, ATOL, err_msg=theirs)


def expected_lines(case):
    return (GOLDEN / "debug_info" / f"{case}.txt").read_text().splitlines()


@pytest.mark.parametrize("case", CASES)
def test_probes_of_a_test_and_an_iteration_are_caffes(
    case, lines, monkeypatch, tmp_path
):
    monkeypatch.chdir(GOLDEN / "solvers" / case)
    opened = run.open_run(load_config(write_solver(case, tmp_path / "s.prototxt")))
    state = run.make_state(opened)
    params, stats = run.load_weight_files(
        opened.train.net, state.params, state.stats, ["init.caffemodel"]
    )
    state = state._replace(params=params, stats=stats)
    expected = expected_lines(case)
    first_train = len(expected_lines_of_tests(expected))

    feed = run.open_device_feed(opened, opened.tests[0])
    probe = make_test_probe(opened.tests[0].net, opened.tests[0].augment)
    for _ in range(2):
        probe(params, stats, next(feed), jax.random.key(0))
    feed.close()
    compare(lines, expected[:first_train])
    lines.clear()

    feed = run.open_device_feed(opened, opened.train)
    iter_size = opened.solver.iter_size
    probe = make_train_probe(opened.train.net, opened.train.augment, iter_size)
    probe(state, next(feed))
    feed.close()
    compare(lines, expected[first_train:][: len(lines)])
    levels = [level for level, line in lines if "All net params" in line]
    assert levels == ["ERROR"] * iter_size


def expected_lines_of_tests(expected):
    """The lines before the first iteration's: those of two test batches."""
    heads = [line.rsplit(" ", 1)[0] for line in expected]
    back = next(i for i, head in enumerate(heads) if "[Backward]" in head)
    starts = [i for i in range(back) if heads[i] == heads[0]]
    return expected[: starts[2]]


def test_train_with_debug_info_logs_displayed_iterations_only(
    lines, monkeypatch, tmp_path
):
    case = "sgd_itersize3"
    monkeypatch.chdir(GOLDEN / "solvers" / case)
    solver = write_solver(case, tmp_path / "s.prototxt")
    config = load_config(solver, [f"workdir={tmp_path}/w", "weights=init.caffemodel"])
    train(config)
    compare(lines, expected_lines(case))


BACKWARD = json.loads((GOLDEN / "debug_info" / "backward.json").read_text())


@pytest.mark.parametrize("name", BACKWARD)
def test_backward_lines_are_those_of_the_layers_caffe_runs(name):
    net, source = parse_net(BACKWARD[name]["net"], name)
    state = caffe_pb2.NetState(phase=caffe_pb2.TRAIN)
    built = build_net(build_graph(net, state, source), {})
    lines = backward_lines(built, plan_backward(built))
    assert [line.strip() for line in lines] == BACKWARD[name]["lines"]
