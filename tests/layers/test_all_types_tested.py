"""Every registered layer type has its kinds of tests (see conftest.py)."""

import ast
import inspect
import json
from pathlib import Path

import pytest

import jaxcaffe.layers  # noqa: F401  registers every type
from jaxcaffe.layers import registry
from jaxcaffe.proto.text import read_net

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


# Feeds have no module. Of these, test_pipeline_golden.py runs every recorded case:
RECORDED_FEEDS = ("Data", "HDF5Data", "ImageData", "MemoryData")
# ... and these have tests of their own.
FEED_TESTS = {
    "Input": ("layers/test_feed.py", "test_input_hand_", "test_input_bad_"),
    "WindowData": (
        "data/test_window.py",
        "test_window_data_gives_the_very_crops_that_caffe_gives",
        "test_window_data_bad_",
    ),
}
TESTS = Path(__file__).parents[1]


def _test_names(paths=None) -> set[str]:
    names = set()
    for path in paths or Path(__file__).parent.glob("test_*.py"):
        tree = ast.parse(path.read_text())
        names |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    return names


def _missing_kinds(name: str, tests: set[str]) -> list[str]:
    kinds = [k for k in KINDS if k != "gradient" or name not in NO_GRADIENT]
    return _missing_prefixes([f"test_{name.lower()}_{kind}_" for kind in kinds], tests)


def _missing_prefixes(prefixes, tests: set[str]) -> list[str]:
    return [f"{p}..." for p in prefixes if not any(t.startswith(p) for t in tests)]


def _recorded_statuses(name: str) -> set[bool]:
    """Returns which of True (Caffe ran) and False (Caffe refused) are recorded."""
    folder = TESTS / "golden" / "data"
    return {
        case["status"] == 0
        for case in json.loads((folder / "outputs.json").read_text())
        if any(layer.type == name for layer in read_net(folder / case["net"])[0].layer)
    }


def _missing_sections(kind: registry.LayerType) -> list[str]:
    """Returns what a layer's docstring lacks of the house's template."""
    sections = ["Returns:", "float32", "Source: caffe/", "Differs:"]
    sections += ["Args of the call:"] if kind.bottoms != (0, 0) else []
    sections += ["Blobs"] if getattr(kind.module, "blobs", ()) else []
    source = inspect.getsource(kind.module)
    sections += ["Raises:"] if "LayerError" in source or "check_" in source else []
    words = " ".join((kind.module.__doc__ or "").split())
    return [section for section in sections if section not in words]


def test_missing_sections_of_half_written_docstring_are_named():
    class Half:
        """Doubles its bottom, (N, C) float32.

        Source: caffe/none.cpp.
        """

        blobs = ("weight",)

    kind = registry.LayerType("Half", Half, (1, 1), (1, 1))
    assert _missing_sections(kind) == [
        "Returns:",
        "Differs:",
        "Args of the call:",
        "Blobs",
    ]


def test_missing_kinds_of_half_tested_type_are_named():
    tests = {"test_lrn_hand_x", "test_lrn_golden_x", "test_lrnx_bad_x"}
    assert _missing_kinds("LRN", tests) == ["test_lrn_gradient_...", "test_lrn_bad_..."]


def test_all_types_of_caffe_are_registered():
    assert len(CAFFE_TYPES) == 61
    assert set(registry.layer_types()) >= CAFFE_TYPES


@pytest.mark.parametrize(
    "name",
    [n for n in registry.layer_types() if registry.lookup(n).module is not None],
)
def test_registered_type_has_every_kind_of_test(name):
    assert _missing_kinds(name, _test_names()) == []


@pytest.mark.parametrize(
    "name", sorted(n for n in CAFFE_TYPES if registry.lookup(n).module is not None)
)
def test_type_of_caffe_has_a_whole_docstring(name):
    assert _missing_sections(registry.lookup(name)) == []


@pytest.mark.parametrize(
    "name", [n for n in registry.layer_types() if registry.lookup(n).module is None]
)
def test_feed_type_has_forward_and_bad_input_tests(name):
    if name in RECORDED_FEEDS:
        assert _recorded_statuses(name) == {True, False}
    else:
        path, *prefixes = FEED_TESTS[name]
        assert _missing_prefixes(prefixes, _test_names([TESTS / path])) == []
