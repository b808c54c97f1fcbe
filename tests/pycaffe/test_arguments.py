import pytest

import jaxcaffe.pycaffe as caffe
from jaxcaffe.pycaffe.arguments import parse_arguments


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("n.prototxt", caffe.TEST, 2, ["a", "b"], "w.h5"), {}),
        (
            ("n.prototxt", caffe.TEST),
            {"stages": ("a", "b"), "level": 2, "weights": "w.h5"},
        ),
        (
            (),
            {
                "network_file": "n.prototxt",
                "phase": caffe.TEST,
                "level": 2,
                "stages": ["a", "b"],
                "weights": "w.h5",
            },
        ),
    ],
)
def test_arguments_are_taken_by_place_and_by_name(args, kwargs):
    found = parse_arguments(args, kwargs)
    assert (found.network_file, found.weights) == ("n.prototxt", "w.h5")
    assert (found.state.phase, found.state.level) == (caffe.TEST, 2)
    assert list(found.state.stage) == ["a", "b"]


def test_arguments_left_out_have_their_defaults():
    found = parse_arguments(("n.prototxt", caffe.TRAIN), {"stages": None})
    assert (found.state.phase, found.state.level) == (caffe.TRAIN, 0)
    assert (list(found.state.stage), found.weights) == ([], None)


def test_arguments_in_the_older_order_are_told_by_the_second_path(tmp_path):
    found = parse_arguments(("n.prototxt", tmp_path / "w.caffemodel", caffe.TEST), {})
    assert found.network_file == "n.prototxt"
    assert found.weights == str(tmp_path / "w.caffemodel")
    assert found.state.phase == caffe.TEST


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (("n.prototxt",), {}, r"needs a phase\. Accepted: caffe\.TRAIN"),
        ((), {"phase": 0}, r"needs a network_file\. Accepted: the path"),
        (("n.prototxt", 0), {"stage": "a"}, r"no argument stage\. .*stages, weights"),
        (("n.prototxt", 0), {"phase": 1}, "got phase twice"),
        (("n.prototxt", 0, 0, None, None, 1), {}, "no 6 arguments"),
    ],
)
def test_arguments_that_cannot_be_raise(args, kwargs, message):
    with pytest.raises(TypeError, match=message):
        parse_arguments(args, kwargs)
