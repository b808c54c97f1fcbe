import pathlib

import pytest

from jaxcaffe.curves.curve import collect
from jaxcaffe.curves.rows import read_rows
from jaxcaffe.errors import DataError

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "logs"


def test_collect_run_that_broke_ends_the_curve_before_it(write_run):
    broken = read_rows(write_run("broken", 2.3, [0.1, 0.3, 0.0]))
    whole = read_rows(write_run("whole", 2.3, [0.1, 0.4, 0.6]))
    curve = collect([broken, whole], "test0/accuracy")
    assert curve.x.tolist() == [0, 10]
    assert curve.values.tolist() == [[0.1, 0.3], [0.1, 0.4]]
    assert curve.broke
    assert not collect([whole], "test0/accuracy").broke


def test_collect_nothing_shared_is_empty(write_run):
    rows = read_rows(write_run("a", 2.3, [0.1]))
    assert collect([rows], "test0/other").x.tolist() == []


def test_read_rows_of_caffes_log_are_those_of_a_run():
    rows = read_rows(str(GOLDEN / "two_test_nets.log"))
    assert rows[:3] == [
        {"iter": 0, "test0/accuracy": 0.3125, "test0/loss": 1.60696},
        {"iter": 0, "test1/accuracy": 0.225, "test1/loss": 1.60173},
        {"iter": 0, "loss": 1.65474, "train/loss": 1.65474, "lr": 0.05},
    ]


def test_read_rows_blob_of_several_values_is_left_out(tmp_path):
    (tmp_path / "scalars.jsonl").write_text('{"iter": 5, "loss": 1, "a": [1, 2]}\n')
    assert read_rows(str(tmp_path)) == [{"iter": 5, "loss": 1}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            None,
            r"scalars\.jsonl: cannot be read: No such file .* Accepted: the workdir",
        ),
        ("{broken\n", r"scalars\.jsonl: is broken: "),
        ('{"loss": 1}\n', "holds lines that are no numbers of a run"),
        ("[1]\n", "holds lines that are no numbers of a run"),
    ],
)
def test_read_rows_bad_folder_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "scalars.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        read_rows(str(tmp_path))
