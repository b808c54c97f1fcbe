"""Whatever order a net is used in, its blobs are as if all was computed at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxcaffe.pycaffe as caffe
from jaxcaffe.log import logger
from jaxcaffe.pycaffe import forward, running

NET = """
layer {
  name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } }
}
layer {
  name: "first" type: "InnerProduct" bottom: "data" top: "first"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } }
}
layer { name: "relu" type: "ReLU" bottom: "first" top: "first" }
layer {
  name: "second" type: "InnerProduct" bottom: "first" top: "second"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } }
}
layer { name: "power" type: "Power" bottom: "second" top: "power"
  power_param { scale: 0.5 shift: 1 } }
"""
LAYERS = ("data", "first", "relu", "second", "power")
BLOBS = ("data", "first", "second", "power")


class Eager:
    """The same net in numpy: layers write to arrays when they are run."""

    def __init__(self, net):
        self.data = {name: net.blobs[name].data.copy() for name in BLOBS}
        self.weights = {
            name: [blob.data.copy() for blob in net.params[name]]
            for name in ("first", "second")
        }

    def run(self, start, stop):
        for layer in LAYERS[start:stop]:
            if layer == "first":
                weight, bias = self.weights["first"]
                self.data["first"] = self.data["data"] @ weight.T + bias
            elif layer == "relu":
                self.data["first"] = np.maximum(self.data["first"], 0)
            elif layer == "second":
                weight, bias = self.weights["second"]
                self.data["second"] = self.data["first"] @ weight.T + bias
            elif layer == "power":
                self.data["power"] = self.data["second"] * 0.5 + 1


actions = st.one_of(
    st.tuples(st.just("run"), st.integers(0, 4), st.integers(1, 5)),
    st.tuples(st.just("read"), st.sampled_from(BLOBS), st.just(0)),
    st.tuples(st.just("keep"), st.sampled_from(BLOBS), st.just(0)),
    st.tuples(st.just("drop"), st.just(0), st.just(0)),
    st.tuples(st.just("write"), st.sampled_from(BLOBS), st.integers(-9, 9)),
    st.tuples(
        st.just("learn"), st.sampled_from(("first", "second")), st.integers(0, 1)
    ),
    st.tuples(st.just("hold weight"), st.sampled_from(("first", "second")), st.just(0)),
    st.tuples(st.just("take"), st.just(0), st.just(0)),
)


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(running, "_MOST_PROGRAMS", 1000)  # or soon all is computed at once
    path = tmp_path_factory.mktemp("eager") / "net.prototxt"
    path.write_text(NET)
    handlers = list(logger.handlers)
    yield caffe.Net(str(path), caffe.TEST)  # one for all: compiling takes long
    logger.handlers[:] = handlers
    patch.undo()


@settings(max_examples=120, deadline=None, derandomize=True)
@given(steps=st.lists(actions, max_size=14))
def test_net_used_in_any_order_holds_what_eager_layers_wrote(net, steps):
    net.state.asked["forward"].clear()
    model = Eager(net)
    kept = []
    weights = []
    for kind, what, number in steps:
        if kind == "run" and what < number:
            net.forward(start=LAYERS[what], end=LAYERS[number - 1])
            model.run(what, number)
        elif kind == "read":
            np.testing.assert_allclose(
                net.blobs[what].data, model.data[what], rtol=1e-5, atol=1e-6
            )
        elif kind == "keep":
            kept.append((what, net.blobs[what].data))
        elif kind == "drop":
            kept.clear()
            weights.clear()
        elif kind == "write":
            net.blobs[what].data[0] = number
            model.data[what][0] = number
        elif kind == "learn":
            net.params[what][number].data[...] += 0.25
            model.weights[what][number] += 0.25
        elif kind == "hold weight":
            weights.append((what, net.params[what][0].data))
        elif kind == "take":
            for name, held in weights:
                held[0] -= 0.5
                model.weights[name][0][0] -= 0.5
    for name, view in kept:
        np.testing.assert_allclose(view, model.data[name], rtol=1e-5, atol=1e-6)
    for name in BLOBS:
        np.testing.assert_allclose(
            net.blobs[name].data, model.data[name], rtol=1e-5, atol=1e-6
        )


def test_net_whose_pass_fails_keeps_what_it_had(net, monkeypatch):
    net.forward()
    before = net.blobs["power"].data.copy()
    side = net.blobs["power"].data_side
    side.to_device()  # the two are in step

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(forward, "run", fail)
    with pytest.raises(KeyboardInterrupt):
        net.forward()
    monkeypatch.undo()
    np.testing.assert_array_equal(side.to_device(), before)
    np.testing.assert_array_equal(net.blobs["power"].data, before)
    net.forward()
    np.testing.assert_array_equal(net.blobs["power"].data, before)
