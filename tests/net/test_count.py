"""Counts by hand: values, shared values, statistics, multiply-adds of each type."""

import pytest

from jaxcaffe.net.count import Count, count_layers, count_net
from jaxcaffe.net.graph import build_graph
from jaxcaffe.net.translate import build_net
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import parse_net


def build(*layers, shape=(2, 4, 6, 5)):
    dims = " ".join(f"dim: {length}" for length in shape)
    data = (
        'layer { name: "data" type: "Input" top: "data" '
        f"input_param {{ shape {{ {dims} }} }} }}"
    )
    net, source = parse_net("\n".join([data, *layers]), "net")
    state = caffe_pb2.NetState(phase=caffe_pb2.TRAIN)
    return build_net(build_graph(net, state, source), {})


def count(*layers, **kwargs):
    """The count of the last layer."""
    return count_layers(build(*layers, **kwargs))[-1]


def layer(kind, settings="", name="a", bottom="data", top="a"):
    return (
        f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top}" '
        f"{settings} }}"
    )


def test_count_convolution_counts_a_filter_for_each_value_of_its_top():
    settings = "convolution_param { num_output: 8 kernel_size: 3 }"
    expected = Count(8 * 4 * 9 + 8, 0, 2 * 8 * 4 * 3 * 4 * 9)
    assert count(layer("Convolution", settings)) == expected


def test_count_convolution_of_groups_counts_the_channels_of_a_group():
    settings = "convolution_param { num_output: 4 kernel_size: 3 group: 4 pad: 1 }"
    expected = Count(4 * 9 + 4, 0, 2 * 4 * 6 * 5 * 9)
    assert count(layer("Convolution", settings)) == expected


def test_count_deconvolution_counts_a_filter_for_each_value_of_its_bottom():
    settings = (
        "convolution_param { num_output: 3 kernel_size: 4 stride: 2 bias_term: false }"
    )
    expected = Count(4 * 3 * 16, 0, 2 * 4 * 6 * 5 * 3 * 16)
    assert count(layer("Deconvolution", settings)) == expected


@pytest.mark.parametrize("transpose", ["true", "false"])
def test_count_inner_product_counts_its_matrix_once_an_image(transpose):
    settings = f"inner_product_param {{ num_output: 7 transpose: {transpose} }}"
    expected = Count(7 * 120 + 7, 0, 2 * 7 * 120)
    assert count(layer("InnerProduct", settings)) == expected


def test_count_inner_product_of_a_later_axis_counts_its_matrix_once_a_place():
    settings = "inner_product_param { num_output: 7 axis: 3 bias_term: false }"
    expected = Count(7 * 5, 0, 2 * 4 * 6 * 7 * 5)
    assert count(layer("InnerProduct", settings)) == expected


def test_count_lstm_counts_both_matrices_for_each_step_of_each_stream():
    cont = (
        'layer { name: "cont" type: "Input" top: "cont" '
        "input_param { shape { dim: 9 dim: 2 } } }"
    )
    lstm = (
        'layer { name: "a" type: "LSTM" bottom: "data" bottom: "cont" top: "a" '
        "recurrent_param { num_output: 3 } }"
    )
    matrices = 4 * 3 * 5 + 4 * 3 * 3
    expected = Count(matrices + 4 * 3, 0, 9 * 2 * matrices)
    assert count(cont, lstm, shape=(9, 2, 5)) == expected


def test_count_batch_norm_counts_statistics_alone():
    assert count(layer("BatchNorm")) == Count(0, 4 + 4 + 1, 0)


def test_count_scale_counts_its_values_and_no_multiply_adds():
    settings = "scale_param { bias_term: true }"
    assert count(layer("Scale", settings)) == Count(4 + 4, 0, 0)


@pytest.mark.parametrize("kind", ["ReLU", "Softmax", "Pooling"])
def test_count_layers_without_weights_count_nothing(kind):
    settings = "pooling_param { kernel_size: 2 }" if kind == "Pooling" else ""
    assert count(layer(kind, settings)) == Count(0, 0, 0)


def test_count_net_counts_shared_values_once_and_their_products_twice():
    settings = (
        'param { name: "w" } param { name: "b" } '
        "convolution_param { num_output: 4 kernel_size: 1 }"
    )
    net = build(
        layer("Convolution", settings),
        layer("Convolution", settings, name="b", bottom="a", top="b"),
    )
    assert count_net(net) == Count(4 * 4 + 4, 0, 2 * (2 * 4 * 6 * 5 * 4))
