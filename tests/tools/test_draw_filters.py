import pathlib

import cv2
import numpy as np
import pytest

from jaxcaffe.errors import CaffeError, ConfigError
from jaxcaffe.filter_grid import tile_filters
from jaxcaffe.proto import binary, caffe_pb2
from jaxcaffe.tools import draw_filters


@pytest.fixture
def filters(tmp_path, monkeypatch):
    """Weights of "deep" and "conv1" in net.caffemodel; returns those of conv1."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    shapes = {"ip": (5, 7), "deep": (4, 6, 3, 3), "conv1": (6, 3, 5, 5)}
    net = caffe_pb2.NetParameter()
    for name, shape in shapes.items():
        weight = generator.normal(size=shape).astype(np.float32)
        net.layer.add(name=name, blobs=[binary.array_to_blob(weight)])
    net.layer.add(name="relu")
    binary.write_caffemodel("net.caffemodel", net)
    return weight


def test_draw_filters_takes_the_first_layer_of_colours(filters, capsys):
    assert draw_filters.main(["net.caffemodel", "out.png", "--scale=3"]) == 0
    picture = cv2.imread("out.png")[:, :, ::-1]
    np.testing.assert_array_equal(picture[::3, ::3], tile_filters(filters))
    said = capsys.readouterr().out
    assert said.startswith("conv1: 6 filters of 3 channels, 5 x 5, weights from -")


def test_draw_filters_other_layer_and_order_of_channels(filters):
    draw_filters.main(["net.caffemodel", "a.png", "--layer=deep", "--scale", "1"])
    assert cv2.imread("a.png").shape == (15, 23, 3)
    draw_filters.main(["net.caffemodel", "b.png", "--channels=rgb", "--scale=1"])
    expected = tile_filters(filters, is_bgr=False)
    np.testing.assert_array_equal(cv2.imread("b.png")[:, :, ::-1], expected)


@pytest.mark.parametrize(
    ("argv", "error", "message"),
    [
        (["gone", "a.png"], CaffeError, "gone"),
        (["empty", "a.png"], CaffeError, "empty: "),
        ([".", "a.png"], CaffeError, r"\."),
        (["flat.caffemodel", "a.png"], ConfigError, "holds no convolution's weights"),
        (["net.caffemodel"], ConfigError, "required: OUT"),
        (["net.caffemodel", "a.jpg"], ConfigError, r"does not end in \.png"),
        (["net.caffemodel", "mine.png"], ConfigError, "exists already"),
        (["net.caffemodel", "a.png", "--layer=conv"], ConfigError, "Accepted: conv1"),
        (["net.caffemodel", "a.png", "--scale=0"], ConfigError, "--scale: is 0"),
        (["net.caffemodel", "a.png", "--channels=gbr"], ConfigError, "invalid choice"),
    ],
)
def test_draw_filters_bad_input_is_refused(filters, argv, error, message):
    pathlib.Path("empty").write_bytes(b"")
    pathlib.Path("mine.png").write_text("mine")
    flat = caffe_pb2.NetParameter()
    flat.layer.add(name="ip", blobs=[binary.array_to_blob(np.zeros((2, 3), "f"))])
    binary.write_caffemodel("flat.caffemodel", flat)
    with pytest.raises(error, match=message):
        draw_filters.main(argv)
    assert pathlib.Path("mine.png").read_text() == "mine"
    assert not pathlib.Path("a.png").exists()
