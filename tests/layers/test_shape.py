"""Concat, Slice, Split and Silence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from google.protobuf import text_format

from jaxcaffe.errors import LayerError, PrototxtError
from jaxcaffe.net.graph import build_graph
from jaxcaffe.proto import caffe_pb2


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def build_net(layer: str) -> None:
    """Reads a net of an input "a" of shape (2, 3) and one layer more."""
    text = f"""
        layer {{ name: "in" type: "Input" top: "a"
                 input_param {{ shape {{ dim: 2 dim: 3 }} }} }}
        layer {{ name: "l" {layer} }}
        """
    net = text_format.Parse(text, caffe_pb2.NetParameter())
    build_graph(net, caffe_pb2.NetState())


def concat(make_layer, settings: str, *shapes):
    return make_layer(f'type: "Concat" concat_param {{ {settings} }}', *shapes)


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ("", [[1, 2, 5], [3, 4, 6]]),
        ("axis: 1", [[1, 2, 5], [3, 4, 6]]),
        ("axis: -1", [[1, 2, 5], [3, 4, 6]]),
        ("concat_dim: 1", [[1, 2, 5], [3, 4, 6]]),
    ],
)
def test_concat_hand_puts_columns_side_by_side(make_layer, settings, want):
    a, b = jnp.array([[1.0, 2], [3, 4]]), jnp.array([[5.0], [6]])
    np.testing.assert_array_equal(
        concat(make_layer, settings, (2, 2), (2, 1))(a, b), want
    )


@pytest.mark.parametrize("settings", ["axis: 0", "axis: -2", "concat_dim: 0"])
def test_concat_hand_axis_0_puts_rows_below(make_layer, settings):
    a, b = jnp.array([[1.0, 2]]), jnp.array([[3.0, 4], [5, 6]])
    module = concat(make_layer, settings, (1, 2), (2, 2))
    np.testing.assert_array_equal(module(a, b), [[1, 2], [3, 4], [5, 6]])


def test_concat_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


def test_concat_gradient_matches_differences(make_layer, check_gradient):
    module = concat(make_layer, "axis: 2", (2, 3, 1), (2, 3, 4))
    check_gradient(module, values(2, 3, 1), values(2, 3, 4))


@pytest.mark.parametrize(
    ("settings", "shapes", "message"),
    [
        ("axis: 2", [(2, 3)], r"axis is 2 for .*\(2, 3\)\. Accepted: -2 to 1"),
        ("axis: -3", [(2, 3)], "axis is -3"),
        ("", [()], "Accepted: a bottom with axes"),
        ("concat_dim: 2", [(2, 3)], r"concat_dim is 2 .*Accepted: 0 to 1"),
        ("axis: 1 concat_dim: 1", [(2, 3)], "axis and concat_dim are both set"),
        ("", [(2, 3), (4, 3)], r"bottom 1 has shape \(4, 3\).*except along axis 1"),
        ("", [(2, 3), (2, 3, 1)], r"bottom 1 has shape \(2, 3, 1\)"),
    ],
)
def test_concat_bad_settings_are_refused(make_layer, settings, shapes, message):
    with pytest.raises(LayerError, match=message):
        concat(make_layer, settings, *shapes)


def slice_(make_layer, settings: str, tops: int, shape):
    named = " ".join(f'top: "t{i}"' for i in range(tops))
    return make_layer(f'type: "Slice" {named} slice_param {{ {settings} }}', shape)


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ("", [[0, 1], [2, 3], [4, 5]]),
        ("slice_point: 1 slice_point: 5", [[0], [1, 2, 3, 4], [5]]),
        ("axis: -1 slice_point: 2 slice_point: 3", [[0, 1], [2], [3, 4, 5]]),
        ("slice_dim: 1 slice_point: 2 slice_point: 3", [[0, 1], [2], [3, 4, 5]]),
    ],
)
def test_slice_hand_cuts_before_each_point(make_layer, settings, want):
    tops = slice_(make_layer, settings, 3, (1, 6))(jnp.arange(6.0)[None])
    assert [top[0].tolist() for top in tops] == want


def test_slice_hand_into_one_top_is_the_bottom(make_layer):
    (top,) = slice_(make_layer, "", 1, (2, 3))(values(2, 3))
    np.testing.assert_array_equal(top, values(2, 3))


def test_slice_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


def test_slice_gradient_matches_differences(make_layer, check_gradient):
    module = slice_(make_layer, "axis: 1 slice_point: 1", 2, (2, 3, 4))
    check_gradient(module, values(2, 3, 4))


@pytest.mark.parametrize(
    ("settings", "tops", "shape", "message"),
    [
        ("axis: 2", 1, (2, 3), "axis is 2"),
        ("slice_dim: 5", 1, (2, 3), r"slice_dim is 5 .*Accepted: 0 to 1"),
        ("axis: 1 slice_dim: 1", 1, (2, 3), "axis and slice_dim are both set"),
        ("", 2, (2, 3), "2 tops do not divide axis 1 of length 3 evenly"),
        ("", 2, (2, 0), "2 tops do not divide axis 1 of length 0"),
        ("slice_point: 1", 3, (2, 3), r"1 slice_point for 3 tops\. Accepted: 2"),
        ("slice_point: 2 slice_point: 1", 3, (2, 3), r"\[2, 1\] does not cut"),
        (
            "slice_point: 0",
            2,
            (2, 3),
            r"\[0\] does not cut .*rising values from 1 to 2",
        ),
        ("slice_point: 3", 2, (2, 3), r"\[3\] does not cut an axis of length 3"),
    ],
)
def test_slice_bad_settings_are_refused(make_layer, settings, tops, shape, message):
    with pytest.raises(LayerError, match=message):
        slice_(make_layer, settings, tops, shape)


SPLIT = 'type: "Split" top: "x" top: "y" top: "z"'


def test_split_hand_gradient_is_the_sum_over_tops(make_layer):
    module = make_layer(SPLIT, (2,))
    tops, pull = jax.vjp(module, jnp.array([1.0, 2.0]))
    np.testing.assert_array_equal(tops, [[1, 2]] * 3)
    diffs = (jnp.array([1.0, 2]), jnp.array([10.0, 20]), jnp.array([100.0, 200]))
    np.testing.assert_array_equal(pull(diffs)[0], [111, 222])


def test_split_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


def test_split_gradient_matches_differences(make_layer, check_gradient):
    check_gradient(make_layer(SPLIT, (2, 3)), values(2, 3))


def test_split_bad_number_of_tops_is_refused():
    with pytest.raises(PrototxtError, match=r'layer "l" \(Split\): 0 top'):
        build_net('type: "Split" bottom: "a"')


def test_silence_hand_has_no_tops(make_layer):
    assert make_layer('type: "Silence"', (2,), (3,))(jnp.ones(2), jnp.ones(3)) == ()


def test_silence_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


def test_silence_bad_number_of_tops_is_refused():
    with pytest.raises(PrototxtError, match=r'layer "l" \(Silence\): 1 top'):
        build_net('type: "Silence" bottom: "a" top: "b"')
