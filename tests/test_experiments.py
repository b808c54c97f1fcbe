"""Experiments load, tell their result, and have small curves beside them."""

import ast
import importlib.util
import pathlib
import subprocess
import sys

import cv2
import pytest

from jaxcaffe.config import load_config
from jaxcaffe.errors import ConfigError
from jaxcaffe.log import open_scalars
from jaxcaffe.proto.text import read_solver

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / "experiments"
EXPERIMENTS = sorted(FOLDER.glob("20*.py"))
NEEDED = ("Parent: configs/", "Differs: ", "python -m jaxcaffe.train", "Result: ")


@pytest.fixture(scope="module")
def plot_curves():
    spec = importlib.util.spec_from_file_location(
        "plot_curves", FOLDER / "plot_curves.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def write_run(tmp_path):
    """Returns a function that writes a run and gives its folder.

    Its loss falls from `first`; each test's accuracy comes from the list.
    """

    def write(name, first, accuracies):
        run = tmp_path / name
        run.mkdir()
        scalars = open_scalars(str(run / "scalars.jsonl"))
        for i, accuracy in enumerate(accuracies):
            loss = first / (i + 1) if accuracy else float("nan")
            scalars.write(10 * i, **{"test0/accuracy": accuracy, "test0/loss": loss})
            if accuracy:
                scalars.write(10 * i, loss=loss)
        return str(run)

    return write


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment_loads_and_its_solver_exists(path):
    config = load_config(str(path))
    solver, _ = read_solver(ROOT / config.solver)
    assert (ROOT / solver.net).is_file()
    assert config.workdir.startswith("runs/")
    assert config.seed >= 0


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment_docstring_tells_question_parent_command_and_result(path):
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert text.splitlines()[0].endswith("?")
    assert [word for word in NEEDED if word not in text] == []
    assert f"experiments/{path.name}" in text


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment_curves_are_beside_it_and_small(path):
    picture = path.with_suffix(".png")
    assert picture.stat().st_size < 80_000
    assert cv2.imread(str(picture)).shape[1] > 800


def test_experiments_are_not_imported_by_the_package():
    sources = [path.read_text() for path in (ROOT / "jaxcaffe").rglob("*.py")]
    assert [text for text in sources if "import experiments" in text] == []
    assert [text for text in sources if "from experiments" in text] == []


def test_plot_curves_two_seeds_writes_picture_and_prints_mean_and_range(
    plot_curves, write_run, tmp_path, capsys
):
    runs = write_run("a", 2.3, [0.1, 0.5]), write_run("b", 2.2, [0.2, 0.7])
    out = tmp_path / "curves.png"
    assert plot_curves.main([str(out), f"rate=0.1={','.join(runs)}"]) == 0
    printed = capsys.readouterr().out
    assert printed == "rate=0.1: 60.00 % (50.00 to 70.00, 2 runs) at iteration 10\n"
    assert cv2.imread(str(out)).std() > 1


def test_collect_run_that_broke_ends_the_curve_before_it(plot_curves, write_run):
    broken = plot_curves.read_run(write_run("broken", 2.3, [0.1, 0.3, 0.0]))
    whole = plot_curves.read_run(write_run("whole", 2.3, [0.1, 0.4, 0.6]))
    curve = plot_curves.collect([broken, whole], "test0/accuracy")
    assert curve.iterations.tolist() == [0, 10]
    assert curve.values.tolist() == [[0.1, 0.3], [0.1, 0.4]]
    assert curve.broke
    assert not plot_curves.collect([whole], "test0/accuracy").broke


def test_plot_curves_existing_picture_is_kept(plot_curves, write_run, tmp_path):
    out = tmp_path / "curves.png"
    out.write_bytes(b"mine")
    with pytest.raises(ConfigError, match="exists already"):
        plot_curves.main([str(out), f"x={write_run('a', 2.3, [0.1, 0.5])}"])
    assert out.read_bytes() == b"mine"


def test_plot_curves_missing_run_is_one_line_and_status_1(tmp_path):
    done = subprocess.run(
        [sys.executable, FOLDER / "plot_curves.py", tmp_path / "a.png", "x=nowhere"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "nowhere/scalars.jsonl: cannot be read: No such file or directory. "
        "Accepted: the workdir of a run.\n"
    )


@pytest.mark.parametrize("text", ["runs/a", "=runs/a", "label="])
def test_split_arm_without_label_or_run_raises(plot_curves, text):
    with pytest.raises(ConfigError, match=r"Accepted: LABEL=RUN_DIR"):
        plot_curves.split_arm(text)
