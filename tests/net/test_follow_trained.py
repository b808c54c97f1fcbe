"""Test nets whose blobs are the trained net's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.errors import PrototxtError
from jaxcaffe.net import graph, translate
from jaxcaffe.proto import caffe_pb2, text

DATA = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
"""
IP = """
layer {
  name: "NAME" type: "InnerProduct" bottom: "x" top: "NAME" PARAMS
  inner_product_param { num_output: 4 SETTINGS }
}
"""
SHARED = 'param { name: "w" } param { name: "b" }'


def layer(name, params="", settings=""):
    text = IP.replace("NAME", name).replace("PARAMS", params)
    return text.replace("SETTINGS", settings)


def build(prototxt, trained=None):
    parameter, source = text.parse_net(DATA + prototxt, "net.prototxt")
    phase = caffe_pb2.TRAIN if trained is None else caffe_pb2.TEST
    built = graph.build_graph(parameter, caffe_pb2.NetState(phase=phase), source)
    return translate.build_net(built, {}, () if trained is None else trained.params)


def run(net, params):
    feeds = {"x": jnp.ones((2, 3))}
    return net.apply(params, {}, feeds, jax.random.key(0)).blobs


def filled(net, value):
    return jax.tree.map(lambda x: jnp.full_like(x, value), net.init(jax.random.key(0)))


@pytest.mark.parametrize("first", ["ip", "extra"])
def test_sharer_that_only_the_test_net_has_gets_the_trained_blobs(first):
    train = build(layer("ip", SHARED))
    names = ("ip", "extra") if first == "ip" else ("extra", "ip")
    test = build("".join(layer(name, SHARED) for name in names), train)
    params, _ = filled(train, 2.0)
    assert test.init(jax.random.key(1)) == ({}, {})
    blobs = run(test, params)
    np.testing.assert_array_equal(blobs["ip"], np.full((2, 4), 8.0))
    np.testing.assert_array_equal(blobs["extra"], blobs["ip"])


def test_sharer_whose_owner_only_the_train_net_has_gets_the_owners_blobs():
    train = build(layer("extra", SHARED) + layer("ip", SHARED))
    test = build(layer("ip", SHARED), train)
    params, _ = filled(train, 3.0)
    assert sorted(params) == ["extra"]
    np.testing.assert_array_equal(run(test, params)["ip"], np.full((2, 4), 12.0))


def test_layers_that_share_in_the_test_net_alone_keep_what_each_learned():
    train = build(layer("a") + layer("b"))
    test = build(layer("a", SHARED) + layer("b", SHARED), train)
    params, _ = filled(train, 1.0)
    params["b"] = jax.tree.map(lambda x: 5 * x, params["b"])
    blobs = run(test, params)
    np.testing.assert_array_equal(blobs["a"], np.full((2, 4), 4.0))
    np.testing.assert_array_equal(blobs["b"], np.full((2, 4), 20.0))


def test_layer_that_only_the_test_net_has_makes_its_own_blobs():
    train = build(layer("ip"))
    test = build(layer("ip") + layer("extra"), train)
    params, _ = test.init(jax.random.key(1))
    assert sorted(params) == ["extra"]


@pytest.mark.parametrize(
    ("settings", "blobs"),
    [
        ("transpose: true", r"weight \(3, 4\), bias \(4,\)"),
        ("bias_term: false", r"weight \(4, 3\)"),
        ("num_output: 5", r"weight \(5, 3\), bias \(5,\)"),
    ],
)
def test_blobs_of_other_shapes_than_the_trained_ones_are_refused(settings, blobs):
    train = build(layer("ip"))
    message = (
        rf'net.prototxt:4: layer "ip" \(InnerProduct\): its blobs are {blobs}, but '
        r"weight \(4, 3\), bias \(4,\) in the net that is trained"
    )
    with pytest.raises(PrototxtError, match=message):
        build(layer("ip", settings=settings).replace("num_output: 4 n", "n"), train)
