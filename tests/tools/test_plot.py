"""parse_log, plot and plot_training_log, on Caffe's logs and on runs of ours."""

import pathlib
import shutil
import subprocess
import sys

import cv2
import pytest

from jaxcaffe.errors import ConfigError, DataError
from jaxcaffe.log import open_scalars
from jaxcaffe.tools import parse_log, plot, plot_training_log

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "logs"
BASIC = str(GOLDEN / "basic.log")


def write_run(folder, losses, accuracies):
    folder.mkdir()
    scalars = open_scalars(str(folder / "scalars.jsonl"))
    for i, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True)):
        scalars.write(10 * i, **{"test0/accuracy": accuracy, "test0/loss": loss})
        scalars.write(10 * i, loss=loss)
    return str(folder)


def test_parse_log_writes_caffes_tables(tmp_path, capsys):
    assert parse_log.main([BASIC, str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""
    for net in ("train", "test"):
        name = f"basic.log.{net}"
        assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes()


def test_parse_log_verbose_delimiter_and_overwrite(tmp_path, capsys):
    argv = [BASIC, str(tmp_path), "--verbose", "--delimiter", ";"]
    assert parse_log.main(argv) == 0
    assert f"Wrote {tmp_path}/basic.log.test\n" in capsys.readouterr().out
    assert (tmp_path / "basic.log.train").read_text().startswith("NumIters;Seconds;")
    with pytest.raises(ConfigError, match=r"basic\.log\.train: exists already"):
        parse_log.main(argv)
    assert parse_log.main([BASIC, str(tmp_path), "-overwrite"]) == 0
    assert (tmp_path / "basic.log.train").read_text().startswith("NumIters,Seconds,")


def test_parse_log_one_table_exists_writes_neither(tmp_path):
    (tmp_path / "basic.log.test").write_text("mine")
    with pytest.raises(ConfigError, match=r"basic\.log\.test: exists already"):
        parse_log.main([BASIC, str(tmp_path)])
    assert [p.name for p in tmp_path.iterdir()] == ["basic.log.test"]


def test_parse_log_nothing_tested_makes_one_table(tmp_path, capsys):
    log = tmp_path / "some.log"
    lines = [x for x in pathlib.Path(BASIC).read_text().splitlines() if "Test" not in x]
    log.write_text("\n".join(lines))
    assert parse_log.main([str(log), str(tmp_path), "--verbose"]) == 0
    assert f"Not writing {log}.test; no lines to write" in capsys.readouterr().out
    assert not (tmp_path / "some.log.test").exists()


@pytest.mark.parametrize(
    ("argv", "error", "message"),
    [
        (["nowhere.log", "."], DataError, r"nowhere\.log: cannot be read"),
        ([BASIC, "nowhere"], ConfigError, "nowhere: is no folder"),
        ([BASIC, ".", "--delimiter=ab"], ConfigError, 'is "ab"'),
        ([BASIC, ".", "--delimiter="], ConfigError, 'is ""'),
        ([BASIC], ConfigError, "required: OUT_DIR"),
    ],
)
def test_parse_log_bad_input_is_refused(tmp_path, monkeypatch, argv, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        parse_log.main(argv)
    assert list(tmp_path.iterdir()) == []


def test_plot_two_seeds_writes_picture_and_prints_mean_and_range(tmp_path, capsys):
    a = write_run(tmp_path / "a", [2.3, 1.1], [0.1, 0.5])
    b = write_run(tmp_path / "b", [2.2, 1.0], [0.2, 0.7])
    out = tmp_path / "curves.png"
    assert plot.main([f"rate=0.1={a},{b}", BASIC, f"--out={out}"]) == 0
    assert capsys.readouterr().out == (
        "rate=0.1: 60.00 % (50.00 to 70.00, 2 runs) at iteration 10\n"
        "basic: 31.25 % (1 run) at iteration 30\n"
    )
    assert cv2.imread(str(out)).std() > 1


def test_plot_default_picture_and_chosen_output(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "a", [2.3, 1.25], [0.1, 0.5])
    assert plot.main(["a", "--test_output=test0/loss", "--title=One"]) == 0
    assert capsys.readouterr().out == "a: 1.25 (1 run) at iteration 10\n"
    assert (tmp_path / "curves.png").is_file()


def test_plot_run_without_tests_prints_its_loss(tmp_path, capsys):
    folder = tmp_path / "a"
    folder.mkdir()
    open_scalars(str(folder / "scalars.jsonl")).write(10, loss=0.5)
    assert plot.main([str(folder), f"--out={tmp_path}/a.png"]) == 0
    assert capsys.readouterr().out == "a: 0.5 (1 run) at iteration 10\n"


def test_split_arms_labels_are_the_shortest_that_differ(tmp_path):
    assert plot.split_arms(["x/a", "x/b", "y/b.log", "c/train.log"]) == {
        "a": ["x/a"],
        "x/b": ["x/b"],
        "y/b.log": ["y/b.log"],
        "c": ["c/train.log"],
    }
    odd = tmp_path / "lr=0.1,b"
    odd.mkdir()
    assert plot.split_arms([str(odd)]) == {"lr=0.1,b": [str(odd)]}


@pytest.mark.parametrize("text", ["=runs/a", "label=", "label=a,,b"])
def test_split_arms_without_label_or_run_is_refused(text):
    with pytest.raises(ConfigError, match=r"Accepted: \[LABEL=\]RUN"):
        plot.split_arms([text])


@pytest.mark.parametrize(
    ("argv", "error", "message"),
    [
        (["nowhere"], DataError, "nowhere: cannot be read: No such file"),
        (["a=x", "a=y"], ConfigError, 'the label "a" comes twice'),
        ([BASIC, "--test_output=test0/acc"], ConfigError, "Accepted: test0/accuracy"),
        ([], ConfigError, "required: RUN"),
        ([BASIC, "--accuracy_from=x"], ConfigError, "accuracy_from: invalid float"),
        ([BASIC, "--out=no/a.png"], ConfigError, r"no/a\.png: cannot be written"),
        ([BASIC, "--out=a.pdf"], ConfigError, r"--out: a\.pdf is no \.png file"),
        ([BASIC, "--out=mine.png"], ConfigError, r"mine\.png: exists already"),
        (["empty"], DataError, "empty: nothing was displayed or tested yet"),
    ],
)
def test_plot_bad_input_is_refused(tmp_path, monkeypatch, argv, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.png").write_bytes(b"mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "scalars.jsonl").write_text("")
    with pytest.raises(error, match=message):
        plot.main(argv)
    assert (tmp_path / "mine.png").read_bytes() == b"mine"
    assert not (tmp_path / "curves.png").exists()


def test_plot_missing_run_is_one_line_and_status_1():
    done = subprocess.run(
        [sys.executable, "-m", "jaxcaffe", "plot", "nowhere"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "nowhere: cannot be read: No such file or directory. "
        "Accepted: a training log.\n"
    )


@pytest.mark.parametrize("kind", range(8))
def test_plot_training_log_draws_each_type(kind, tmp_path):
    out = tmp_path / "out.png"
    (tmp_path / "run").mkdir()
    shutil.copy(GOLDEN / "two_test_nets.log", tmp_path / "run" / "train.log")
    argv = [str(kind), str(out), BASIC, str(tmp_path / "run")]
    assert plot_training_log.main(argv) == 0
    assert cv2.imread(str(out)).std() > 1


def test_pick_curve_takes_outputs_of_the_first_test_net_by_name_or_place():
    log = plot_training_log.read_log(str(GOLDEN / "two_test_nets.log"))

    def pick(events, quantity, over_seconds=False):
        curve = plot_training_log.pick_curve(events, quantity, over_seconds)
        return curve.x.tolist(), curve.values[0].tolist()

    assert pick(log, "Test accuracy") == ([0, 10], [0.3125, 0.125])
    assert pick(log, "Test loss") == ([0, 10], [1.60696, 1.82907])
    assert pick(log, "Train loss") == ([0, 5, 10], [1.65474, 1.62372, 1.75505])
    seconds, rates = pick(log, "Train learning rate", over_seconds=True)
    assert rates == [0.05, 0.05]
    assert seconds == pytest.approx([0.001575, 0.002794])
    named = [e._replace(name=e.name.replace("accuracy", "top1")) for e in log]
    assert pick(named, "Test accuracy") == ([0, 10], [0.3125, 0.125])
    odd = [e._replace(name=e.name.replace("loss", "cost")) for e in log]
    assert pick(odd, "Test loss") == ([0, 10], [1.60696, 1.82907])


@pytest.mark.parametrize(
    ("argv", "error", "message"),
    [
        (
            ["8", "a.png", BASIC],
            ConfigError,
            r"TYPE is 8\. Accepted: 0 \(Test accuracy",
        ),
        (["loss", "a.png", BASIC], ConfigError, "TYPE is loss"),
        (["0", "a.jpg", BASIC], ConfigError, r"a\.jpg: does not end in \.png"),
        (["0", "a.png"], ConfigError, "required: LOG"),
        (["0", "a.png", "nowhere.log"], DataError, r"nowhere\.log: cannot be read"),
        (["0", "a.png", "."], DataError, r"train\.log: cannot be read"),
        (["0", "mine.png", BASIC], ConfigError, r"mine\.png: exists already"),
        (["0", "a.png", "few.log"], DataError, r"few\.log: holds no test accuracy"),
    ],
)
def test_plot_training_log_bad_input_is_refused(
    tmp_path, monkeypatch, argv, error, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.png").write_bytes(b"mine")
    lines = pathlib.Path(BASIC).read_text().splitlines()
    (tmp_path / "few.log").write_text("\n".join(lines[:2]))
    with pytest.raises(error, match=message):
        plot_training_log.main(argv)
    assert not (tmp_path / "a.png").exists()
