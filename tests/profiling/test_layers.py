"""Timing layers one by one: which gradients are taken, and that they are right."""

import jax
import numpy as np
import pytest

from jaxcaffe.net import graph, translate
from jaxcaffe.profiling import layers
from jaxcaffe.proto import caffe_pb2, text

NET = """
layer {
  name: "data" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 2 dim: 4 dim: 5 dim: 5 } shape { dim: 2 } }
}
layer {
  name: "conv" type: "Convolution" bottom: "data" top: "conv"
  param { lr_mult: 0 } param { lr_mult: 0 }
  convolution_param { num_output: 4 kernel_size: 3 group: 2
    weight_filler { type: "xavier" } }
}
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer {
  name: "conv2" type: "Convolution" bottom: "conv" top: "conv2"
  convolution_param { num_output: 6 kernel_size: 2 group: 2
    weight_filler { type: "xavier" } }
}
layer {
  name: "ip" type: "InnerProduct" bottom: "conv2" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } }
}
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def build(net=NET):
    parameter, source = text.parse_net(net, "net.prototxt")
    state = caffe_pb2.NetState(phase=caffe_pb2.TRAIN)
    built = translate.build_net(graph.build_graph(parameter, state, source), {})
    return built, *built.init(jax.random.key(0))


def followed(net):
    return [gradients.bottoms for gradients in layers.plan_gradients(net)]


def test_plan_gradients_follows_bottoms_behind_which_something_learns():
    net, _, _ = build()
    assert followed(net) == [(), (), (), (), (0,), (0,)]
    blobs = [gradients.blobs for gradients in layers.plan_gradients(net)]
    both = ("weight", "bias")
    assert blobs == [(), (), (), both, both, ()]
    net, _, _ = build("force_backward: true\n" + NET)
    assert followed(net) == [(), (0,), (0,), (0,), (0,), (0,)]
    assert layers.plan_gradients(net)[1].blobs == both


def test_plan_gradients_forgets_a_blob_that_is_made_anew():
    # A learned layer in place makes "data" need gradients from there on only.
    net, _, _ = build(
        'layer { name: "a" type: "Input" top: "data"'
        " input_param { shape { dim: 1 dim: 2 } } }"
        'layer { name: "scale" type: "Scale" bottom: "data" top: "data" }'
        'layer { name: "relu" type: "ReLU" bottom: "data" top: "data" }'
    )
    assert followed(net) == [(), (), (0,)]


def test_plan_gradients_leaves_out_what_lies_under_no_loss():
    # As the second loss of BVLC's autoencoder for MNIST: shown, not learned from.
    net, _, _ = build(
        NET + 'layer { name: "shown" type: "EuclideanLoss" bottom: "ip" bottom: "ip"'
        ' top: "shown" loss_weight: 0 }'
    )
    by_name = dict(
        zip((n.layer.name for n in net.graph.nodes), followed(net), strict=True)
    )
    assert (by_name["loss"], by_name["shown"]) == ((0,), ())


def make_backward(name, bottoms):
    net, params, stats = build()
    index = [node.layer.name for node in net.graph.nodes].index(name)
    call = net.calls[index]
    args = (*call.arrays(params, stats), bottoms, jax.random.key(1))
    gradients = layers.plan_gradients(net)[index]
    return layers._make_backward(call, gradients, args), params


def test_backward_gives_the_gradients_of_the_sum_of_the_top():
    bottom = np.random.default_rng(0).normal(size=(2, 6, 2, 2)).astype(np.float32)
    backward, params = make_backward("ip", [jax.numpy.asarray(bottom)])
    (((blobs, (slope,))),) = backward()
    rows = bottom.reshape(2, -1)
    weight = np.tile(rows.sum(axis=0), (3, 1))
    np.testing.assert_allclose(blobs["weight"], weight, rtol=1e-5)
    np.testing.assert_allclose(blobs["bias"], [2, 2, 2])
    expected = np.tile(np.asarray(params["ip"]["weight"]).sum(axis=0), (2, 1))
    np.testing.assert_allclose(slope.reshape(2, -1), expected, rtol=1e-5)


def test_backward_is_none_where_nothing_learns():
    backward, _ = make_backward("conv", [jax.numpy.ones((2, 4, 5, 5))])
    assert backward is None


def test_backward_of_grouped_convolution_leaves_no_choice_for_run_time():
    backward, _ = make_backward("conv2", [jax.numpy.ones((2, 4, 3, 3))])
    compiled = backward.func.lower(*backward.args).compile()
    assert "convolution" in compiled.as_text()
    assert "conditional" not in compiled.as_text()


def test_time_layers_yields_each_layer_once_in_order():
    net, params, stats = build()
    feeds = {"data": jax.numpy.ones((2, 4, 5, 5)), "label": jax.numpy.zeros(2)}
    times = list(layers.time_layers(net, params, stats, feeds, jax.random.key(0), 2))
    names = ["data", "conv", "relu", "conv2", "ip", "loss"]
    assert [layer.name for layer in times] == names
    assert [layer.backward > 0 for layer in times] == [False] * 3 + [True] * 3
    assert [layer.forward > 0 for layer in times] == [False] + [True] * 5


@pytest.mark.parametrize("head", ["", "force_backward: true "])
def test_time_layers_runs_layers_with_statistics_and_random_numbers(head):
    net, params, stats = build(
        f"{head}"
        'layer { name: "a" type: "Input" top: "data"'
        " input_param { shape { dim: 4 dim: 2 } } }"
        'layer { name: "scale" type: "Scale" bottom: "data" top: "data" }'
        'layer { name: "bn" type: "BatchNorm" bottom: "data" top: "data" }'
        'layer { name: "drop" type: "Dropout" bottom: "data" top: "data" }'
    )
    feeds = {"data": jax.numpy.arange(8.0).reshape(4, 2)}
    times = list(layers.time_layers(net, params, stats, feeds, jax.random.key(0), 1))
    assert [layer.name for layer in times] == ["a", "scale", "bn", "drop"]
    assert min(layer.backward for layer in times[1:]) > 0
