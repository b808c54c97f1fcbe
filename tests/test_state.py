"""The state's ring of losses, and what a test net keeps for itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcaffe.net import graph, translate
from jaxcaffe.proto import caffe_pb2, text
from jaxcaffe.state import (
    add_hidden,
    enter_loss,
    find_non_finite,
    fit_window,
    init_state,
    pick_hidden,
    smoothed_loss,
)

NET = """
layer {
  name: "in" type: "Input" top: "x" top: "cont" top: "image"
  input_param {
    shape { dim: 5 dim: STREAMS dim: 2 }
    shape { dim: 5 dim: STREAMS }
    shape { dim: STREAMS dim: 2 }
  }
}
layer { name: "bn" type: "BatchNorm" bottom: "image" top: "y" }
layer {
  name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "lstm"
  recurrent_param { num_output: 3 }
}
"""
ONLY_TESTED = 'layer { name: "bn2" type: "BatchNorm" bottom: "lstm" top: "bn2" }'


def build(prototxt: str, phase: int):
    parameter, source = text.parse_net(prototxt, "net.prototxt")
    state = caffe_pb2.NetState(phase=phase)
    return translate.build_net(graph.build_graph(parameter, state, source), {})


@pytest.fixture
def nets():
    train = build(NET.replace("STREAMS", "4"), caffe_pb2.TRAIN)
    test = build(NET.replace("STREAMS", "7") + ONLY_TESTED, caffe_pb2.TEST)
    return train, test


def test_hidden_is_recurrent_state_and_what_the_train_net_lacks(nets):
    train, test = nets
    _, stats = test.init(jax.random.key(0))
    hidden = pick_hidden(test, train, stats)
    assert sorted(hidden) == ["bn2", "lstm"]
    assert hidden["lstm"]["h"].shape == (7, 3)
    assert sorted(hidden["bn2"]) == ["mean", "scale_factor", "variance"]


def test_test_net_runs_on_shared_statistics_and_its_own_hidden_state(nets):
    train, test = nets
    params, stats = train.init(jax.random.key(0))
    # A variance of 4 halves what comes out of BatchNorm, whose mean is 0.
    stats["bn"] = {
        "mean": jnp.zeros(2),
        "variance": jnp.full(2, 4.0),
        "scale_factor": jnp.ones(1),
    }
    own_params, own_stats = test.init(jax.random.key(1))
    hidden = pick_hidden(test, train, own_stats)
    both = add_hidden(stats, hidden)
    feeds = {
        "x": jnp.ones((5, 7, 2)),
        "cont": jnp.ones((5, 7)),
        "image": jnp.ones((7, 2)),
    }
    out = test.apply({**own_params, **params}, both, feeds, jax.random.key(2))
    np.testing.assert_allclose(out.blobs["y"], np.full((7, 2), 0.5), rtol=1e-4)
    assert out.stats["lstm"]["h"].shape == (7, 3)
    # The train net's own hidden state is another.
    assert stats["lstm"]["h"].shape == (4, 3)


def make_state(losses: int):
    params = {"ip": {"weight": jnp.ones((2, 2))}}
    stats = {"bn": {"mean": jnp.zeros(2)}}
    return init_state(params, stats, optax.trace(0.9), jax.random.key(0), losses)


def test_smoothed_loss_is_the_mean_of_the_latest():
    state = make_state(3)
    for loss, mean in [(1.0, 1.0), (2.0, 1.5), (6.0, 3.0), (4.0, 4.0)]:
        state = enter_loss(state, jnp.float32(loss))
        assert smoothed_loss(state) == mean


@pytest.mark.parametrize(("length", "expected"), [(2, 4.5), (3, 4.0), (5, 4.0)])
def test_window_of_another_length_holds_the_latest_losses(length, expected):
    state = make_state(3)
    for loss in (1.0, 2.0, 3.0, 4.0, 5.0):
        state = enter_loss(state, jnp.float32(loss))
    fitted = fit_window(state, length)
    assert fitted.losses.shape == (length,)
    assert smoothed_loss(fitted) == expected
    # The next loss takes the place of the oldest.
    after = smoothed_loss(enter_loss(fitted, jnp.float32(9.0)))
    held = [3.0, 4.0, 5.0, 9.0][-min(length, 4) :]
    np.testing.assert_allclose(after, np.mean(held))


def test_blob_that_is_not_finite_is_named():
    state = make_state(1)
    assert find_non_finite(state) is None
    bad = state._replace(params={"ip": {"weight": jnp.array([[1.0, jnp.inf]])}})
    assert find_non_finite(bad) == 'blob "weight" of layer "ip"'
    bad = state._replace(stats={"bn": {"mean": jnp.array([jnp.nan])}})
    assert find_non_finite(bad) == 'blob "mean" of layer "bn"'
