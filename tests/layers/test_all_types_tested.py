"""Every registered layer type has its kinds of tests (see conftest.py)."""

import ast
from pathlib import Path

import pytest

import jaxcaffe.layers  # noqa: F401  registers every type
from jaxcaffe.layers import registry

KINDS = ("hand", "golden", "gradient", "bad")

# Types with nothing to differentiate: counts, choices, and tops without bottoms.
NO_GRADIENT = {"Accuracy", "ArgMax", "DummyData", "HDF5Output", "Silence", "Threshold"}
# What Caffe 1.0 registers.
# fmt: off
CAFFE_TYPES = {
    "AbsVal", "Accuracy", "ArgMax", "BatchNorm", "BatchReindex", "Bias", "BNLL",
    "Clip", "Concat", "ContrastiveLoss", "Convolution", "Crop", "Data",
    "Deconvolution", "Dropout", "DummyData", "Eltwise", "ELU", "Embed",
    "EuclideanLoss", "Exp", "Filter", "Flatten", "HDF5Data", "HDF5Output",
    "HingeLoss", "Im2col", "ImageData", "InfogainLoss", "InnerProduct", "Input",
    "Log", "LRN", "LSTM", "LSTMUnit", "MemoryData", "MultinomialLogisticLoss", "MVN",
    "Parameter", "Pooling", "Power", "PReLU", "Python", "Reduction", "ReLU",
    "Reshape", "RNN", "Scale", "Sigmoid", "SigmoidCrossEntropyLoss", "Silence",
    "Slice", "Softmax", "SoftmaxWithLoss", "Split", "SPP", "Swish", "TanH",
    "Threshold", "Tile", "WindowData",
}
# fmt: on


def _test_names() -> set[str]:
    names = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        tree = ast.parse(path.read_text())
        names |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    return names


def _missing_kinds(name: str, tests: set[str]) -> list[str]:
    missing = []
    for kind in KINDS:
        exempt = kind == "gradient" and name in NO_GRADIENT
        prefix = f"test_{name.lower()}_{kind}_"
        if not exempt and not any(test.startswith(prefix) for test in tests):
            missing.append(prefix + "...")
    return missing


def test_missing_kinds_of_half_tested_type_are_named():
    tests = {"test_lrn_hand_x", "test_lrn_golden_x", "test_lrnx_bad_x"}
    assert _missing_kinds("LRN", tests) == ["test_lrn_gradient_...", "test_lrn_bad_..."]


def test_all_types_of_caffe_are_registered():
    assert len(CAFFE_TYPES) == 61
    assert set(registry.layer_types()) >= CAFFE_TYPES


# Feeds have no module; the tests of the data pipeline cover them.
@pytest.mark.parametrize(
    "name",
    [n for n in registry.layer_types() if registry.lookup(n).module is not None],
)
def test_registered_type_has_every_kind_of_test(name):
    assert _missing_kinds(name, _test_names()) == []
