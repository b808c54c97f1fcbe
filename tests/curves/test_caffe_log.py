"""Logs that Caffe wrote, and tables that its parse_log.py made of them."""

import math
import pathlib

import pytest

from jaxcaffe.curves.caffe_log import read_log
from jaxcaffe.curves.table import tabulate, write_csv
from jaxcaffe.errors import DataError

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "logs"
START = "I1231 23:59:58.500000 7 solver.cpp:289] Solving net\n"


@pytest.mark.parametrize("name", ["basic", "two_test_nets"])
@pytest.mark.parametrize("net", ["train", "test"])
def test_tables_are_those_of_caffes_script(name, net):
    rows = tabulate(read_log(str(GOLDEN / f"{name}.log")), net)
    assert write_csv(rows) == (GOLDEN / f"{name}.log.{net}").read_bytes()


def test_read_log_gives_loss_rate_and_outputs_of_each_net():
    events = read_log(str(GOLDEN / "two_test_nets.log"))
    found = [(e.iteration, e.name, e.value) for e in events]
    assert found[:7] == [
        (0, "test0/accuracy", 0.3125),
        (0, "test0/loss", 1.60696),
        (0, "test1/accuracy", 0.225),
        (0, "test1/loss", 1.60173),
        (0, "loss", 1.65474),
        (0, "train/loss", 1.65474),
        (0, "lr", 0.05),
    ]
    assert found[10] == (10, "loss", 1.75505)
    assert events[4].seconds == pytest.approx(0.001543)


def test_read_log_over_new_year_and_numbers_that_are_none(tmp_path):
    path = tmp_path / "log"
    path.write_text(
        "Log file created at: 2026/12/31\n"
        + START
        + "I1231 23:59:59.500000 7 x.cpp:1] Iteration 0, loss = 2.5e+00\n"
        + "I0101 00:00:01.500000 7 x.cpp:1] Iteration 5, loss = nan\n"
        + "no prefix, Iteration 7, loss = 3\n\n"
        + "I0101 00:00:01.500000 7 x.cpp:1] Iteration 6, loss = 1.6.6\n"
        + "I0101 00:00:01.500000 7 x.cpp:1] Iteration 6, lr = .\n"
        + "I0231 00:00:01.500000 7 x.cpp:1] Iteration 8, loss = 1\n"
        + "I0101 00:00:02.500000 7 x.cpp:1]     Train net output #0: p = -inf\n"
    )
    events = read_log(str(path))
    assert [e.seconds for e in events] == [1.0, 3.0, 4.0]
    assert [e.iteration for e in events] == [0, 5, 8]
    assert math.isnan(events[1].value)
    assert events[2].value == -math.inf


def test_read_log_lines_with_the_year_are_read_too(tmp_path):
    path = tmp_path / "log"
    path.write_text(
        "I20261231 23:59:58.500000 7 solver.cpp:289] Solving net\n"
        "I20270101 00:00:01.500000 7 x.cpp:1] Iteration 5, loss = 2\n"
    )
    [event] = read_log(str(path))
    assert (event.iteration, event.seconds, event.value) == (5, 3.0, 2.0)


def test_tabulate_one_row_is_kept_and_a_cut_one_is_not(tmp_path):
    path = tmp_path / "log"
    line = "I1231 23:59:59.000000 7 x.cpp:1] "
    one = f"{line}Iteration 0\n{line}Train net output #0: a = 1\n"
    one += f"{line}Train net output #1: b = 2\n"
    path.write_text(START + one)
    [row] = tabulate(read_log(str(path)), "train")
    assert list(row) == ["NumIters", "Seconds", "LearningRate", "a", "b"]
    path.write_text(
        START + one + f"{line}Iteration 5\n{line}Train net output #0: a = 1\n"
    )
    assert len(tabulate(read_log(str(path)), "train")) == 1
    assert tabulate(read_log(str(path)), "test") == []


def test_write_csv_later_columns_are_written_too():
    rows = [{"NumIters": 0.0, "a": 1.0}, {"NumIters": 5.0, "b": 2.0}]
    assert write_csv(rows, ";") == b"NumIters;a;b\r\n0.0;1.0;\r\n5.0;;2.0\r\n"


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x00\xff", b"Solving\nIteration 5, loss = 1\n"]
)
def test_read_log_no_training_log_is_refused(tmp_path, content):
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r'log: holds no line "Solving \.\.\."'):
        read_log(str(path))


def test_read_log_missing_or_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere: cannot be read: No such file"):
        read_log("nowhere")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_log(str(tmp_path))
