"""Holds the direction of imports between packages."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "jaxcaffe"

BASE = {"errors", "spec"}
MODEL = BASE | {"proto", "ops", "layers"}
ALLOWED = {
    "errors": set(),
    "spec": {"proto"},  # for annotations only
    "proto": BASE | {"disk"},
    "disk": set(),
    "ops": set(),
    "host": BASE | {"proto"},
    "layers": BASE | {"proto", "ops", "host"},
    "net": MODEL | {"host"},
    "solver": BASE | {"proto", "ops"},
    "data": BASE | {"proto"},
    "user_layers": BASE | {"host"},
    "progress": set(),
    "signals": set(),
    "filter_grid": set(),
    "compile_cache": set(),
    "run_view": set(),
    "terminal": {"log", "run_view"},
    "board": BASE | {"log", "filter_grid"},
    "devices": {"errors", "log"},
    "display": BASE | {"proto", "log", "run_view", "solver", "step"},
    "config": {"errors"},
    "log": {"errors"},
    "sharding": BASE,
    "state": BASE,
    "augment": BASE | {"proto", "window_augment"},
    "window_augment": BASE | {"proto"},
    "prefetch": BASE,
    "step": BASE | {"state", "ops"},
    "grouping": BASE | {"state", "step"},
    "events": set(),
    "testing": BASE | {"state", "prefetch", "signals", "display"},
    "checkpoint": BASE | {"state", "sharding", "log", "disk"},
    "labels": BASE | {"proto"},
    "loop": BASE
    | {"proto", "state", "step", "checkpoint", "log", "prefetch", "signals"}
    | {"caffe_files", "display", "run_view", "events", "grouping", "testing"},
    "caffe_files": MODEL | {"net", "solver", "state", "log", "disk"},
}
ENTRIES = {
    *("__init__", "__main__", "run", "train", "blame", "debug_info", "profile"),
    *("construction", "fed_net", "start", "job", "own_net"),
    *("classifier", "pretrained", "image_io", "profiling", "tools", "datasets"),
    "curves",
    "cpu",
    "pycaffe",
}


def unit_of(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_units(path: pathlib.Path) -> set[str]:
    units = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "jaxcaffe" and len(parts) > 1:
                units.add(parts[1])
    return units


FILES = sorted(p for p in PACKAGE.rglob("*.py") if not p.name.endswith("_pb2.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_module_imports_only_what_lies_below_it(path):
    unit = unit_of(path)
    if unit in ENTRIES:
        return
    assert unit in ALLOWED, f"{unit} has no place in the order of imports"
    assert imported_units(path) <= ALLOWED[unit] | {unit}


def test_nothing_below_imports_an_entry():
    for path in FILES:
        if unit_of(path) in ALLOWED:
            assert not imported_units(path) & (ENTRIES - {"__init__"})


SHARED_BY_LAYERS = {
    "axes",
    "blobs",
    "checks",
    "fillers",
    "geometry",
    "normalize",
    "registry",
}


def test_layer_files_import_no_other_family():
    for path in (PACKAGE / "layers").glob("*.py"):
        if path.name == "__init__.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith(
                "jaxcaffe.layers"
            ):
                name = node.module.removeprefix("jaxcaffe.layers").lstrip(".")
                names = {name} if name else {alias.name for alias in node.names}
                assert names <= SHARED_BY_LAYERS, path


def test_no_module_that_workers_load_imports_jax():
    for path in (PACKAGE / "data").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            assert not any(n.split(".")[0] in ("jax", "flax") for n in names), path
