"""Commands whose OUT exists and whose input is wrong: they tell of the input."""

import pathlib

import pytest

from jaxcaffe import __main__ as entry
from jaxcaffe.errors import CaffeError

NET = ["--model_def=net.prototxt", "--pretrained_model=net.caffemodel"]
CASES = {
    "classify": ["none.png", "out.npy", *NET],
    "compute_image_mean": ["none_lmdb", "out.npy"],
    "convert_imageset": ["images/", "none.txt", "out.npy"],
    "convert_mnist_data": ["none", "none", "out.npy"],
    "convert_mnist_siamese_data": ["none", "none", "out.npy"],
    "convert_weights": ["none.caffemodel", "out.npz"],
    "detect": ["none.csv", "out.csv", *NET],
    "draw_filters": ["none.caffemodel", "out.png"],
    "draw_net": ["none.prototxt", "out.png"],
    "plot": ["none", "--out=out.png"],
    "plot_training_log": ["0", "out.png", "none.log"],
    "extract_features": [
        "none.caffemodel",
        "none.prototxt",
        "a",
        "out.npy",
        "1",
        "lmdb",
    ],
}


@pytest.fixture
def outputs(tiny_net):
    """Files of all names that are asked for, which no command may replace."""
    paths = [pathlib.Path(f"out.{ext}") for ext in ("npy", "npz", "csv", "png")]
    for path in paths:
        path.write_text("mine")
    yield
    assert all(path.read_text() == "mine" for path in paths)


@pytest.mark.parametrize("command", CASES)
def test_wrong_input_is_told_before_an_output_that_exists(outputs, command):
    with pytest.raises(CaffeError, match=r"^none"):
        entry.dispatch([command, *CASES[command]])


def test_upgrade_tells_of_its_input_first(outputs, capsys):
    assert entry.dispatch(["upgrade_net_proto_text", "none.prototxt", "out.npy"]) == 134
    assert capsys.readouterr().err.startswith("none.prototxt: no such file")
