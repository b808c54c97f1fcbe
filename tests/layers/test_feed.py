"""DummyData, and what is known of the layers whose tops the caller gives."""

import jax
import numpy as np
import pytest
from flax import nnx

from jaxcaffe.errors import LayerError, PrototxtError
from jaxcaffe.layers import registry
from jaxcaffe.net.graph import build_graph
from jaxcaffe.net.translate import build_net
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import parse_net


def dummy_data(make_layer, settings: str, tops: int = 1):
    named = " ".join(f'top: "t{i}"' for i in range(tops))
    return make_layer(f'type: "DummyData" {named} dummy_data_param {{ {settings} }}')


def run(module, seed: int = 0) -> list[np.ndarray]:
    # Compiles far sooner than the default generator, and DummyData takes any key.
    key = jax.random.key(seed, impl="rbg")
    return [np.asarray(top) for top in module(key=key)]


@pytest.mark.parametrize(
    ("name", "tops"),
    [
        ("Data", (1, 2)),
        ("HDF5Data", (1, None)),
        ("ImageData", (2, 2)),
        ("Input", (1, None)),
        ("MemoryData", (2, 2)),
    ],
)
def test_feed_has_no_module(name, tops):
    entry = registry.lookup(name)
    assert entry.module is None
    assert entry.bottoms == (0, 0)
    assert entry.tops == tops


def build_input(shapes: str):
    text = f'layer {{ name: "i" type: "Input" top: "a" top: "b" {shapes} }}'
    net, source = parse_net(text, "net.prototxt")
    graph = build_graph(net, caffe_pb2.NetState(phase=caffe_pb2.TEST), source)
    return build_net(graph, {})


def test_input_hand_one_shape_serves_all_tops_and_feeds_pass_through():
    net = build_input("input_param { shape { dim: 2 dim: 3 } }")
    assert net.structs["a"].shape == net.structs["b"].shape == (2, 3)
    feeds = {"a": np.arange(6, dtype=np.uint8).reshape(2, 3), "b": np.ones((2, 3))}
    blobs = net.apply({}, {}, feeds, jax.random.key(0)).blobs
    assert blobs["a"].dtype == blobs["b"].dtype == np.float32
    np.testing.assert_array_equal(blobs["a"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(blobs["b"], feeds["b"])


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ("", r"the shape of top a, b is not known"),
        (
            "input_param { shape { dim: 1 } shape { dim: 2 } shape { dim: 3 } }",
            r"input_param has 3 shapes for 2 tops\. Accepted: one shape, or one per",
        ),
    ],
)
def test_input_bad_number_of_shapes_is_refused(shapes, message):
    with pytest.raises(PrototxtError, match=rf'1: layer "i" \(Input\): {message}'):
        build_input(shapes)


def test_dummydata_hand_one_shape_and_filler_serve_all_tops(make_layer):
    module = dummy_data(make_layer, "shape { dim: 2 } data_filler { value: 4 }", tops=2)
    first, second = run(module)
    np.testing.assert_array_equal(first, [4, 4])
    np.testing.assert_array_equal(second, [4, 4])


def test_dummydata_hand_without_filler_is_zero(make_layer):
    (top,) = run(dummy_data(make_layer, "shape { dim: 2 dim: 3 }"))
    np.testing.assert_array_equal(top, np.zeros((2, 3)))
    assert top.dtype == np.float32


def test_dummydata_hand_each_top_has_its_shape_and_filler(make_layer):
    module = dummy_data(
        make_layer,
        """shape { dim: 3 } shape { }
           data_filler { value: 1 } data_filler { value: 2 }""",
        tops=2,
    )
    first, second = run(module)
    np.testing.assert_array_equal(first, [1, 1, 1])
    np.testing.assert_array_equal(second, 2)


def test_dummydata_hand_old_fields_once_or_per_top(make_layer):
    module = dummy_data(
        make_layer, "num: 2 num: 5 channels: 3 height: 4 height: 1 width: 6", tops=2
    )
    assert [top.shape for top in run(module)] == [(2, 3, 4, 6), (5, 3, 1, 6)]


def test_dummydata_hand_random_tops_follow_the_key(make_layer):
    module = dummy_data(
        make_layer,
        """shape { dim: 50 } data_filler { type: "gaussian" }
           data_filler { type: "gaussian" } data_filler { value: 7 }""",
        tops=3,
    )
    first, second, constant = run(module, seed=1)
    assert (first != second).all()  # tops do not repeat each other
    np.testing.assert_array_equal(run(module, seed=1)[0], first)
    assert (run(module, seed=2)[0] != first).all()
    np.testing.assert_array_equal(run(module, seed=2)[2], constant)


def test_dummydata_hand_settings_are_hashable(make_layer):
    graph, state = nnx.split(dummy_data(make_layer, "shape { dim: 2 }"))
    assert hash(graph) == hash(graph)
    assert not jax.tree.leaves(state)


def test_dummydata_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize(
    ("settings", "tops", "message"),
    [
        ("", 1, r"shape is given 0 times for 1 top\. Accepted: shape once"),
        ("shape { dim: 1 } shape { dim: 1 }", 3, "shape is given 2 times for 3 tops"),
        ("shape { dim: 1 } num: 1 width: 2", 1, "shape and num, width are both set"),
        ("num: 1 channels: 1 height: 1", 1, "width is given 0 times"),
        (
            "shape { dim: 1 } data_filler { } data_filler { }",
            3,
            r"data_filler is given 2 times for 3 tops\. Accepted: .* once, or 3 times",
        ),
        (
            'shape { dim: 1 } data_filler { type: "gausian" }',
            1,
            r'"gausian" is unknown\. Accepted: gaussian',
        ),
        ("shape { dim: 0 }", 1, "cannot fill an empty blob"),
        ("shape { dim: -1 }", 1, r"shape \(-1,\)"),
    ],
)
def test_dummydata_bad_settings_are_refused(make_layer, settings, tops, message):
    with pytest.raises(LayerError, match=message):
        dummy_data(make_layer, settings, tops)
