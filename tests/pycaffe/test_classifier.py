"""Classifier against what Caffe's gave for the same net and images."""

import numpy as np
import pytest

from jaxcaffe.errors import CaffeError, ConfigError, PrototxtError
from jaxcaffe.pycaffe.classifier import Classifier
from jaxcaffe.pycaffe.images import load_image
from jaxcaffe.pycaffe.net import Net

# Sums of a few dozen products in float32, in another order, under a softmax.
TOLERANCE = 1e-6

MEAN = np.array([104.0, 117.0, 123.0])


@pytest.fixture
def classifier(window_net):
    return Classifier(
        *window_net,
        image_dims=(16, 17),
        mean=MEAN,
        raw_scale=255.0,
        channel_swap=(2, 1, 0),
        input_scale=0.02,
    )


@pytest.fixture
def inputs(pictures, recorded):
    """Three images of three sizes."""
    return [
        load_image("rgb.png"),
        load_image("flip.png")[3:17, 2:20],
        recorded["c/im2"],
    ]


@pytest.mark.parametrize(("oversample", "name"), [(True, "ten"), (False, "one")])
def test_predict_gives_what_caffe_gives(classifier, inputs, recorded, oversample, name):
    before = [image.copy() for image in inputs]
    scores = classifier.predict(inputs, oversample)
    assert scores.dtype == np.float32
    expected = recorded[f"c/{name}"]
    assert np.ptp(expected, axis=0).max() > 1e-3  # images are told apart
    np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCE)
    for image, old in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(image, old)


def test_classifier_is_a_net_with_a_transformer(classifier):
    assert isinstance(classifier, Net)
    assert classifier.inputs == ["data"]
    assert classifier.crop_dims.tolist() == [12, 12]
    assert list(classifier.image_dims) == [16, 17]
    assert classifier.transformer.raw_scale == {"data": 255.0}
    assert list(classifier.params) == ["conv", "ip"]


def test_predict_without_image_dims_takes_the_whole_image(window_net, inputs):
    made = Classifier(*window_net)
    assert list(made.image_dims) == [12, 12]
    whole = made.predict(inputs[:1], oversample=False)
    image = made.transformer.preprocess("data", inputs[0])
    out = made.forward_all(data=image[None])["prob"]
    np.testing.assert_allclose(whole, out, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("dims", [(11, 20), (20, 11)])
@pytest.mark.parametrize("oversample", [True, False])
def test_predict_of_images_smaller_than_the_input_raises(
    window_net, inputs, dims, oversample
):
    made = Classifier(*window_net, image_dims=dims)
    with pytest.raises(ConfigError, match=r"smaller than the net's input.*12,12"):
        made.predict(inputs, oversample)


def test_predict_of_a_gray_image_for_swapped_channels_raises(classifier):
    with pytest.raises(CaffeError, match=r"channel_swap .* 1 channel\. Accepted: 3"):
        classifier.predict([np.ones((20, 20, 1), np.float32)])


def test_predict_of_no_image_raises(classifier):
    with pytest.raises(ValueError, match=r"images have the shapes none"):
        classifier.predict([])


@pytest.mark.parametrize(
    ("shape", "message"),
    [("dim: 4 dim: 3", r"its first input is of shape \(4, 3\)"), (None, "is missing")],
)
def test_net_without_images_as_input_raises(pictures, shape, message):
    kind = 'type: "Input" input_param { shape { SHAPE } }'
    if shape is None:
        kind = 'type: "DummyData" dummy_data_param { shape { dim: 2 } }'
    text = f'layer {{ name: "data" top: "data" {kind} }}'
    (pictures / "net.prototxt").write_text(text.replace("SHAPE", shape or ""))
    with pytest.raises(PrototxtError, match=message):
        Classifier("net.prototxt", None)
