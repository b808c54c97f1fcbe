"""Transformer against Caffe's, and what it refuses."""

import numpy as np
import pytest

from jaxcaffe.errors import CaffeError, ConfigError
from jaxcaffe.pycaffe import io
from jaxcaffe.pycaffe.images import ArrayError

# A few roundings of numbers of up to 255 times 0.017.
TOLERANCE = 2e-6


@pytest.fixture
def transformer(recorded):
    made = io.Transformer({"data": (4, 3, 12, 12)})
    made.set_transpose("data", (2, 0, 1))
    made.set_channel_swap("data", (2, 1, 0))
    made.set_raw_scale("data", 255.0)
    made.set_mean("data", recorded["t/meanin"])
    made.set_input_scale("data", 0.017)
    return made


def test_set_mean_of_another_size_is_resized_as_in_caffe(transformer, recorded):
    np.testing.assert_allclose(transformer.mean["data"], recorded["t/mean"], rtol=1e-6)


def test_preprocess_gives_what_caffe_gives(transformer, recorded):
    before = recorded["t/im"].copy()
    made = transformer.preprocess("data", recorded["t/im"])
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, recorded["t/pre"], rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(recorded["t/im"], before)


def test_preprocess_of_the_nets_size_leaves_the_image_alone():
    made = io.Transformer({"data": (1, 1, 2, 2)})
    made.set_raw_scale("data", 2)
    image = np.ones((2, 2, 1), np.float32)
    np.testing.assert_array_equal(made.preprocess("data", image), image * 2)
    assert image.max() == 1


def test_deprocess_gives_what_caffe_gives(transformer, recorded):
    back = transformer.deprocess("data", recorded["t/pre"][None])
    np.testing.assert_allclose(back, recorded["t/de"], rtol=0, atol=TOLERANCE)


def test_deprocess_of_preprocess_is_the_image(transformer):
    image = np.random.default_rng(2).random((12, 12, 3)).astype(np.float32)
    data = transformer.preprocess("data", image)
    back = transformer.deprocess("data", data)
    np.testing.assert_allclose(back, image, rtol=0, atol=1e-6)


def test_deprocess_of_one_channel_undoes_the_transpose():
    made = io.Transformer({"data": (1, 1, 2, 3)})
    data = np.arange(6).reshape(1, 1, 2, 3)
    np.testing.assert_array_equal(made.deprocess("data", data), data[0, 0])
    made.set_transpose("data", (2, 0, 1))
    expected = data[0].transpose(1, 2, 0)
    np.testing.assert_array_equal(made.deprocess("data", data), expected)


@pytest.mark.parametrize("shape", [(3,), (2, 4), (3, 2, 4), (1, 2, 4), (3, 7, 3)])
def test_set_mean_of_every_shape_is_subtracted(shape):
    made = io.Transformer({"data": (1, 3, 2, 4)})
    mean = np.full(shape, 5.0)
    made.set_mean("data", mean)
    made.set_transpose("data", (2, 0, 1))
    data = made.preprocess("data", np.full((2, 4, 3), 7.0))
    np.testing.assert_array_equal(data, np.full((3, 2, 4), 2.0, np.float32))


@pytest.mark.parametrize(
    ("call", "argument", "error", "message"),
    [
        ("set_raw_scale", 1.0, ConfigError, r"dta is not one of the net inputs.*data"),
        ("set_input_scale", 1.0, ConfigError, r"Accepted: data\."),
        ("deprocess", np.zeros(3), ConfigError, "not one of the net inputs"),
    ],
)
def test_blob_that_is_no_input_raises(call, argument, error, message):
    made = io.Transformer({"data": (1, 3, 2, 4)})
    with pytest.raises(error, match=message):
        getattr(made, call)("dta", argument)


@pytest.mark.parametrize(
    ("call", "argument", "message"),
    [
        ("set_transpose", (1, 0), "Transpose order.*Accepted: 3 numbers"),
        ("set_transpose", (1, 1, 0), "does not name every axis once"),
        ("set_channel_swap", (1, 0), "Channel swap.*Accepted: 3 numbers"),
        ("set_channel_swap", (3, 1, 0), "not there. Accepted: 0 to 2"),
        ("set_mean", np.zeros(2), "Mean channels incompatible.*are 2. Accepted: 3"),
        ("set_mean", np.zeros((2, 2, 4)), "Mean channels incompatible with input"),
        ("set_mean", np.zeros((1, 3, 2, 4)), r"Mean shape invalid. It is \(1, 3"),
    ],
)
def test_setter_with_what_does_not_fit_raises(call, argument, message):
    made = io.Transformer({"data": (1, 3, 2, 4)})
    with pytest.raises(CaffeError, match=message):
        getattr(made, call)("data", argument)


def test_set_mean_that_does_not_fit_is_a_value_error_as_in_caffe():
    made = io.Transformer({"data": (1, 3, 2, 4)})
    with pytest.raises(ValueError, match="Mean shape invalid"):
        made.set_mean("data", np.zeros((1, 1, 1, 1)))


def test_preprocess_of_a_gray_image_for_three_swapped_channels_raises(transformer):
    with pytest.raises(ArrayError, match=r"channel_swap .* 1 channel\. Accepted: 3"):
        transformer.preprocess("data", np.zeros((12, 12, 1)))
