"""The configs that come with the project load and name files that exist."""

import ast
import pathlib

import pytest

from jaxcaffe.config import config_get, fields, load_config
from jaxcaffe.proto.text import read_solver

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
NEEDED = ("Cost:", "Expected:", "python -m jaxcaffe.train configs/")


def ids(path):
    return path.stem


@pytest.mark.parametrize("path", CONFIGS, ids=ids)
def test_config_loads_and_its_solver_exists(path):
    config = load_config(str(path))
    solver, _ = read_solver(ROOT / config.solver)
    assert (ROOT / solver.net).is_file()
    assert config.workdir == f"runs/{path.stem}"


@pytest.mark.parametrize("path", CONFIGS, ids=ids)
def test_config_docstring_tells_command_cost_and_result(path):
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert [word for word in NEEDED if word not in text] == []
    assert f"configs/{path.name}" in text


@pytest.mark.parametrize("path", CONFIGS, ids=ids)
def test_config_each_field_has_a_comment(path):
    bare = [
        line
        for line in path.read_text().splitlines()
        if line.startswith("    config.") and "  # " not in line
    ]
    # What these two name, they say themselves.
    assert [line.split()[0] for line in bare if "solver" not in line] in (
        [],
        ["config.workdir"],
    )


def test_caffenet_tfds_differs_from_its_parent_in_the_records_alone():
    parent, child = (
        load_config(str(ROOT / "configs" / name))
        for name in ("caffenet.py", "caffenet_tfds.py")
    )
    differing = {
        name
        for name in fields(parent)
        if config_get(parent, name) != config_get(child, name)
    }
    assert differing == {
        "workdir",
        "data.source_train",
        "data.source_test",
        "data.resize",
        "data.shuffle",
        "data.processes",
    }
