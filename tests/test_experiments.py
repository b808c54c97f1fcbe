"""Experiments load, tell their result, and have small curves beside them."""

import ast
import pathlib

import cv2
import pytest

from jaxcaffe.config import load_config
from jaxcaffe.proto.text import read_solver

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / "experiments"
EXPERIMENTS = sorted(FOLDER.glob("20*.py"))
NEEDED = ("Parent: configs/", "Differs: ", "python -m jaxcaffe.train", "Result: ")


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
