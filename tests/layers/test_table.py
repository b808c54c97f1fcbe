"""Embed and Parameter."""

import jax.numpy as jnp
import numpy as np
import pytest
from google.protobuf import text_format

from jaxcaffe.errors import LayerError, PrototxtError
from jaxcaffe.net.graph import build_graph
from jaxcaffe.proto import caffe_pb2

EMBED = """type: "Embed" embed_param {
    num_output: 2 input_dim: 3 weight_filler { type: "uniform" } %s }"""


def test_embed_hand_rows_of_the_table(make_layer):
    module = make_layer(EMBED % "", (2, 2))
    table = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    module.weight.set_value(jnp.asarray(table))
    module.bias.set_value(jnp.array([10.0, 20.0]))
    top = module(jnp.array([[0.0, 2.0], [2.0, 1.0]]))
    np.testing.assert_array_equal(top, table[[[0, 2], [2, 1]]] + [10, 20])


def test_embed_hand_fractions_are_cut_off_as_in_caffe(make_layer):
    module = make_layer(EMBED % "bias_term: false", (2,))
    top = module(jnp.array([-0.5, 1.9]))
    np.testing.assert_array_equal(top, module.weight.get_value()[:2])


@pytest.mark.parametrize("number", [-1, 3, np.nan])
def test_embed_hand_number_outside_the_table_gives_nan(make_layer, number):
    top = make_layer(EMBED % "", (2,))(jnp.array([number, 1.0]))
    assert np.isnan(top[0]).all()
    assert np.isfinite(top[1]).all()


def test_embed_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize("settings", ["", "bias_term: false"])
def test_embed_gradient_matches_differences(make_layer, check_gradient, settings):
    bottom = np.array([[0, 2, 2], [1, 0, 2]], np.float32)
    check_gradient(make_layer(EMBED % settings, (2, 3)), bottom, wrt=())


@pytest.mark.parametrize("field", ["num_output", "input_dim"])
def test_embed_bad_missing_length_is_refused(make_layer, field):
    other = {"num_output": "input_dim: 3", "input_dim": "num_output: 2"}[field]
    text = f'type: "Embed" embed_param {{ {other} }}'
    with pytest.raises(LayerError, match=rf"{field} is 0\. Accepted: {field} of 1"):
        make_layer(text, (2,))


def test_parameter_hand_is_its_blob_and_starts_at_zero(make_layer):
    module = make_layer('type: "Parameter" parameter_param { shape { dim: 2 } }')
    np.testing.assert_array_equal(module(), [0, 0])
    module.weight.set_value(jnp.array([1.0, -3.0]))
    np.testing.assert_array_equal(module(), [1, -3])


def test_parameter_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


def test_parameter_gradient_matches_differences(make_layer, check_gradient):
    text = 'type: "Parameter" parameter_param { shape { dim: 2 dim: 3 } }'
    check_gradient(make_layer(text))


def test_parameter_bad_bottom_is_refused():
    net = text_format.Parse(
        """
        layer { name: "in" type: "Input" top: "a"
                input_param { shape { dim: 1 } } }
        layer { name: "n" type: "Parameter" bottom: "a" top: "c" }
        """,
        caffe_pb2.NetParameter(),
    )
    with pytest.raises(PrototxtError, match=r'"n" \(Parameter\): 1 bottom'):
        build_graph(net, caffe_pb2.NetState())
