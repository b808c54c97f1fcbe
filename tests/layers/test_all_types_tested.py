"""Every registered layer type has its kinds of tests (see conftest.py)."""

import ast
from pathlib import Path

import pytest

import jaxcaffe.layers  # noqa: F401  registers every type
from jaxcaffe.layers import registry

KINDS = ("hand", "golden", "gradient", "bad")

# Types with nothing to differentiate: counts, choices, and tops without bottoms.
NO_GRADIENT = {"Accuracy", "ArgMax", "DummyData", "HDF5Output", "Silence", "Threshold"}
# Types that need a program or a disk beside the net, for which Caffe left no case.
NO_GOLDEN = {"HDF5Output", "Python"}


def _test_names() -> set[str]:
    names = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        tree = ast.parse(path.read_text())
        names |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    return names


def _missing_kinds(name: str, tests: set[str]) -> list[str]:
    missing = []
    for kind in KINDS:
        exempt = (kind == "gradient" and name in NO_GRADIENT) or (
            kind == "golden" and name in NO_GOLDEN
        )
        prefix = f"test_{name.lower()}_{kind}_"
        if not exempt and not any(test.startswith(prefix) for test in tests):
            missing.append(prefix + "...")
    return missing


def test_missing_kinds_of_half_tested_type_are_named():
    tests = {"test_lrn_hand_x", "test_lrn_golden_x", "test_lrnx_bad_x"}
    assert _missing_kinds("LRN", tests) == ["test_lrn_gradient_...", "test_lrn_bad_..."]


# Feeds have no module; the tests of the data pipeline cover them.
@pytest.mark.parametrize(
    "name",
    [n for n in registry.layer_types() if registry.lookup(n).module is not None],
)
def test_registered_type_has_every_kind_of_test(name):
    assert _missing_kinds(name, _test_names()) == []
