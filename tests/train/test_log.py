"""What a run logs."""

import pathlib
import re

from jaxcaffe.train import train
from whole_runs import break_file, load_config


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
