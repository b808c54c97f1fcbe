"""Detector against what Caffe's gave for the same net, images and windows."""

import sys
import types

import numpy as np
import pytest

from jaxcaffe.errors import ConfigError
from jaxcaffe.pycaffe.detector import Detector
from jaxcaffe.pycaffe.images import load_image

# Sums of a few dozen products in float32, in another order, under a softmax.
TOLERANCE = 1e-6

MEAN = np.array([104.0, 117.0, 123.0])
SETTINGS = [
    {"mean": MEAN, "context_pad": 0, "channel_swap": (2, 1, 0), "raw_scale": 255.0},
    {"mean": MEAN, "context_pad": 2, "channel_swap": (2, 1, 0), "raw_scale": 255.0},
    {"context_pad": 3, "input_scale": 100.0},
    {"mean": None, "context_pad": 2, "channel_swap": (2, 0, 1), "raw_scale": 100.0},
]


@pytest.fixture(params=range(len(SETTINGS)))
def case(request, window_net, recorded):
    """Number of the recording, the detector, the windows."""
    settings = {"input_scale": 0.02, **SETTINGS[request.param]}
    if "mean" in settings and settings["mean"] is None:
        settings["mean"] = recorded["full"]
    detector = Detector(*window_net, **settings)
    # The one beyond the border needs context.
    windows = recorded["wins"][slice(None) if settings["context_pad"] else [0, 1, 3, 4]]
    return request.param, detector, windows


def test_detect_windows_gives_what_caffe_gives(case, recorded):
    number, detector, windows = case
    found = detector.detect_windows(
        zip(["rgb.png", "flip.png"], [windows[:2], windows[2:]], strict=True)
    )
    assert [entry["filename"] for entry in found[1:3]] == ["rgb.png", "flip.png"]
    for entry, window in zip(found, windows, strict=True):
        np.testing.assert_array_equal(entry["window"], window)
    scores = np.stack([entry["prediction"] for entry in found])
    expected = recorded[f"d/{number}"]
    assert np.ptp(expected, axis=0).max() > 1e-3  # windows are told apart
    np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCE)


def test_crop_gives_what_caffe_gives(case, recorded):
    number, detector, windows = case
    image = load_image("rgb.png")
    crops = [detector.crop(image, window) for window in windows]
    if not detector.context_pad:
        np.testing.assert_array_equal(crops[0], image[2:15, 3:18])
        return
    expected = recorded[f"d/{number}/crop"]
    np.testing.assert_allclose(np.stack(crops), expected, rtol=0, atol=TOLERANCE)


def test_crop_takes_lists_and_leaves_them(window_net):
    detector = Detector(*window_net, context_pad=2)
    image, window = load_image("rgb.png"), [2, 3, 15, 18]
    crop = detector.crop(image, window)
    assert window == [2, 3, 15, 18]
    np.testing.assert_array_equal(crop, detector.crop(image, np.array(window)))


@pytest.mark.parametrize("context_pad", [0, 2])
@pytest.mark.parametrize("window", [(30, 3, 40, 10), (1, 2, 3)])
def test_crop_of_what_is_no_window_raises(window_net, context_pad, window):
    detector = Detector(*window_net, context_pad=context_pad)
    with pytest.raises(ConfigError, match=r"window: .* an image of 20 x 26 pixels"):
        detector.crop(load_image("rgb.png"), window)


def test_configure_crop_can_be_called_again(window_net):
    detector = Detector(*window_net)
    image, window = load_image("rgb.png"), (2, 3, 15, 18)
    assert detector.crop(image, window).shape == (13, 15, 3)
    detector.configure_crop(3)
    assert detector.crop(image, window).shape == (12, 12, 3)


def test_context_that_leaves_nothing_raises(window_net):
    with pytest.raises(ConfigError, match="context_pad: is 6 for an input of 12 x 12"):
        Detector(*window_net, context_pad=6)


def test_detect_windows_of_none_is_empty(window_net):
    assert Detector(*window_net).detect_windows([("rgb.png", [])]) == []


def test_detect_selective_search_says_what_is_missing(window_net):
    with pytest.raises(ImportError, match=r"selective_search_ijcv.*detect_windows"):
        Detector(*window_net).detect_selective_search(["rgb.png"])


def test_detect_selective_search_uses_the_module_where_there_is_one(
    window_net, pictures, monkeypatch
):
    name = "selective_search_ijcv_with_python"
    module = types.ModuleType(name)
    asked = []

    def get_windows(paths, cmd):
        asked.append((paths, cmd))
        return [np.array([[2, 3, 15, 18]])]

    module.get_windows = get_windows
    monkeypatch.setitem(sys.modules, name, module)
    [found] = Detector(*window_net).detect_selective_search(["rgb.png"])
    path = str(pictures / "rgb.png")
    assert asked == [([path], "selective_search_rcnn")]
    assert found["filename"] == path
    assert found["prediction"].shape == (4,)
