"""The words of messages."""

import pytest

from jaxcaffe.classifier import Classifier
from jaxcaffe.errors import ConfigError, plural

GRAY = """
layer {
  name: "data" type: "Input" top: "data"
  input_param { shape { dim: 1 dim: 1 dim: 6 dim: 6 } }
}
layer { name: "prob" type: "Softmax" bottom: "data" top: "prob" }
"""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((1, "top"), "1 top"),
        ((2, "top"), "2 tops"),
        ((0, "top"), "0 tops"),
        ((1, "class", "classes"), "1 class"),
        ((3, "class", "classes"), "3 classes"),
    ],
)
def test_plural_of_one_is_the_noun_alone(arguments, expected):
    assert plural(*arguments) == expected


def test_channel_swap_for_a_gray_net_asks_for_one_number(tmp_path):
    (tmp_path / "net.prototxt").write_text(GRAY)
    (tmp_path / "net.caffemodel").write_bytes(b"")
    with pytest.raises(ConfigError) as caught:
        Classifier(
            str(tmp_path / "net.prototxt"),
            str(tmp_path / "net.caffemodel"),
            channel_swap=(2, 1, 0),
        )
    assert str(caught.value) == (
        "channel_swap: (2, 1, 0) does not fit 1 channel. Accepted: 1 number from 0 to "
        "0, such as 0."
    )
