"""Nets from text, in as few words as a test needs."""

import jax
import jax.numpy as jnp
import pytest

from jaxcaffe.net.graph import build_graph
from jaxcaffe.net.translate import build_net
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import parse_net


@pytest.fixture
def graph_of():
    """text, phase, level, stages -> Graph; its file is called net.prototxt."""

    def graph_of(text, phase=caffe_pb2.TRAIN, level=0, stages=()):
        net, source = parse_net(text, "net.prototxt")
        state = caffe_pb2.NetState(phase=phase, level=level, stage=stages)
        return build_graph(net, state, source)

    return graph_of


@pytest.fixture
def net_of(graph_of):
    """text, phase, shapes of feed tops -> Net."""

    def net_of(text, phase=caffe_pb2.TRAIN, **shapes):
        structs = {
            top: jax.ShapeDtypeStruct(shape, jnp.float32)
            for top, shape in shapes.items()
        }
        return build_net(graph_of(text, phase), structs)

    return net_of


@pytest.fixture
def key():
    return jax.random.key(0)
