"""Counts of values and operations, worked out by hand."""

import pytest
from google.protobuf import text_format

from jaxcaffe.proto import caffe_pb2
from jaxcaffe.pycaffe.costs import read_costs


def costs_of(layers, shape):
    dims = " ".join(f"dim: {length}" for length in shape)
    text = f"""
    layer {{
      name: "in" type: "Input" top: "in" input_param {{ shape {{ {dims} }} }}
    }}
    {layers}
    """
    net = text_format.Parse(text, caffe_pb2.NetParameter())
    return read_costs(net, caffe_pb2.TEST)


@pytest.mark.parametrize(
    ("type_", "param", "shape", "top", "params", "flops"),
    [
        # 2 x 4 x 3 x 3 values, each of 6 / 2 x 3 x 3 products.
        (
            "Convolution",
            "convolution_param { num_output: 4 kernel_size: 3 group: 2 }",
            (2, 6, 5, 5),
            (2, 4, 3, 3),
            4 * 27 + 4,
            2 * 72 * 27,
        ),
        # Each of 2 x 6 x 5 x 5 values is spread over 4 x 2 x 2.
        (
            "Deconvolution",
            "convolution_param { num_output: 4 kernel_size: 2 stride: 2 }",
            (2, 6, 5, 5),
            (2, 4, 10, 10),
            6 * 16 + 4,
            2 * 300 * 16,
        ),
        (
            "InnerProduct",
            "inner_product_param { num_output: 7 bias_term: false }",
            (3, 2, 5),
            (3, 7),
            70,
            2 * 3 * 70,
        ),
        (
            "InnerProduct",
            "inner_product_param { num_output: 7 transpose: true axis: 2 }",
            (3, 2, 5),
            (3, 2, 7),
            35 + 7,
            2 * 6 * 35,
        ),
        (
            "Embed",
            "embed_param { num_output: 4 input_dim: 9 bias_term: false }",
            (3, 2),
            (3, 2, 4),
            36,
            0,
        ),
        ("PReLU", "", (2, 6, 5, 5), (2, 6, 5, 5), 6, 0),
        # Moving averages are not learned.
        ("BatchNorm", "", (2, 6, 5, 5), (2, 6, 5, 5), 0, 0),
    ],
)
def test_cost_of_one_layer(type_, param, shape, top, params, flops):
    layer = f'layer {{ name: "x" type: "{type_}" bottom: "in" top: "x" {param} }}'
    assert costs_of(layer, shape)[1] == ((top,), params, flops)


def test_cost_of_an_lstm_counts_every_step():
    layers = """
    layer {
      name: "cont" type: "Input" top: "cont" input_param { shape { dim: 5 dim: 2 } }
    }
    layer {
      name: "x" type: "LSTM" bottom: "in" bottom: "cont" top: "x"
      recurrent_param { num_output: 3 }
    }
    """
    cost = costs_of(layers, (5, 2, 4))[2]
    weights = 12 * 4 + 12 * 3
    assert cost == (((5, 2, 3),), weights + 12, 2 * 5 * 2 * weights)


def test_shared_values_are_counted_once_and_used_twice():
    layer = """
    layer {
      name: "NAME" type: "InnerProduct" bottom: "in" top: "NAME" param { name: "w" }
      inner_product_param { num_output: 7 bias_term: false }
    }
    """
    both = layer.replace("NAME", "a") + layer.replace("NAME", "b")
    costs = costs_of(both, (3, 5))
    assert [(costs[i].params, costs[i].flops) for i in (1, 2)] == [(35, 210), (0, 210)]


def test_layers_left_out_by_the_phase_have_no_cost():
    layer = 'layer { name: "x" type: "ReLU" bottom: "in" top: "x" RULE }'
    layers = layer.replace("RULE", "include { phase: TRAIN }")
    assert list(costs_of(layers, (1, 2))) == [0]
