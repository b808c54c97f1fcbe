"""Shapes of a net's inputs when its data are not there."""

import pytest

from jaxcaffe.errors import PrototxtError
from jaxcaffe.net.graph import build_graph
from jaxcaffe.profiling.from_net import feed_structs
from jaxcaffe.proto import caffe_pb2, text


def find_shapes(layer, shape):
    parameter, source = text.parse_net(layer, "net.prototxt")
    state = caffe_pb2.NetState(phase=caffe_pb2.TRAIN)
    structs = feed_structs(build_graph(parameter, state, source), state.phase, shape)
    return {top: struct.shape for top, struct in structs.items()}


@pytest.mark.parametrize(
    ("kind", "transform", "expected"),
    [
        ("Data", "crop_size: 227", (9, 3, 227, 227)),
        ("Data", "scale: 2", (9, 3, 256, 260)),
        ("ImageData", "crop_size: 100", (9, 3, 100, 100)),
        ("WindowData", "crop_size: 300", (9, 3, 300, 300)),  # windows are stretched
        ("HDF5Data", "", (9, 3, 256, 260)),
    ],
)
def test_feed_structs_of_a_given_record_are_cropped(kind, transform, expected):
    param = kind.lower().removesuffix("data") + "_data_param"
    layer = f"""
        layer {{ name: "data" type: "{kind}" top: "data" top: "label"
          transform_param {{ {transform} }}
          {param.lstrip("_")} {{ source: "gone" batch_size: 9 }} }}"""
    assert find_shapes(layer, (3, 256, 260)) == {"data": expected, "label": (9,)}


def test_feed_structs_with_a_crop_larger_than_the_record_is_refused():
    layer = """
        layer { name: "data" type: "Data" top: "data"
          transform_param { crop_size: 227 } data_param { batch_size: 1 } }"""
    with pytest.raises(PrototxtError, match=r"crop_size is 227, the records are 3x99x"):
        find_shapes(layer, (3, 99, 256))
