"""LSTM, RNN and LSTMUnit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcaffe.errors import LayerError

T, N, D, H = 4, 3, 5, 2

LSTM = """type: "LSTM" top: "h" recurrent_param { num_output: 2
    weight_filler { type: "uniform" min: -1 max: 1 }
    bias_filler { type: "uniform" min: -1 max: 1 } }"""
RNN = LSTM.replace("LSTM", "RNN")
EXPOSE = ("{ num_output", "{ expose_hidden: true num_output")


def expose(text: str, states: int) -> str:
    tops = " ".join(['top: "s"'] * states)
    return text.replace(*EXPOSE).replace('top: "h"', f'top: "h" {tops}')


def draw(*shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def cont_with_starts() -> np.ndarray:
    cont = np.ones((T, N), np.float32)
    cont[0, 0] = cont[2, 1] = 0
    return cont


def value(module, blob) -> np.ndarray:
    return np.asarray(getattr(module, blob).get_value(), np.float64)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_by_hand(module, x, cont, h, c, static=0.0):
    """Returns h of every timestep and the last c, in float64, one stream at a time."""
    tops = []
    for t in range(len(x)):
        h = cont[t][:, None] * h
        gates = x[t] @ value(module, "W_xc").T + value(module, "b_c")
        i, f, o, g = np.split(gates + h @ value(module, "W_hc").T + static, 4, axis=1)
        c = cont[t][:, None] * sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        tops.append(h)
    return np.stack(tops), c


def test_lstm_hand_recurrence_and_state_between_passes(make_layer):
    module = make_layer(LSTM, (T, N, D), (T, N))
    x, cont = draw(2 * T, N, D), np.ones((2 * T, N), np.float32)
    cont[0], cont[T + 1, 1] = 0, 0
    want, _ = lstm_by_hand(module, x, cont, np.zeros((N, H)), np.zeros((N, H)))
    for half in (slice(0, T), slice(T, 2 * T)):
        np.testing.assert_allclose(module(x[half], cont[half]), want[half], atol=1e-6)


def test_lstm_hand_static_input_and_exposed_state(make_layer):
    shapes = (T, N, D), (T, N), (N, 2, 3), (1, N, H), (1, N, H)
    module = make_layer(expose(LSTM, 2), *shapes)
    x, static, h, c = (draw(*s, seed=i) for i, s in enumerate(shapes) if i != 1)
    cont = cont_with_starts()
    added = static.reshape(N, 6) @ value(module, "W_xc_static").T
    want, c_T = lstm_by_hand(module, x, cont, h[0], c[0], added)
    tops = module(x, cont, static, h, c)
    for got, expected in zip(tops, (want, want[-1:], c_T[None]), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)
    assert not hasattr(module, "h")


def test_lstm_hand_hidden_state_is_no_blob(make_layer):
    module = make_layer(LSTM, (T, N, D), (T, N))
    shapes = {b: getattr(module, b) for b in module.blobs}
    assert shapes.pop("W_xc_static") is None
    assert {b: v.get_value().shape for b, v in shapes.items()} == {
        "W_xc": (4 * H, D),
        "b_c": (4 * H,),
        "W_hc": (4 * H, H),
    }


def test_lstm_hand_gradient_stops_at_the_first_timestep(make_layer):
    shapes = (T, N, D), (T, N), (1, N, H), (1, N, H)
    module = make_layer(expose(LSTM, 2), *shapes)
    x, cont = draw(*shapes[0]), np.ones((T, N), np.float32)

    def ends(h_0, c_0):
        return sum(top.sum() for top in module(x, cont, h_0, c_0))

    diffs = jax.grad(ends, (0, 1))(draw(*shapes[2]), draw(*shapes[3]))
    assert not np.any(diffs)


def test_lstm_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize("static", [False, True])
def test_lstm_gradient_matches_differences(make_layer, check_gradient, static):
    bottoms = [draw(T, N, D), cont_with_starts(), draw(N, 3)][: 2 + static]
    module = make_layer(LSTM, *(bottom.shape for bottom in bottoms))
    check_gradient(module, *bottoms, wrt=(0, 2)[: 1 + static])


def bad_shapes(states: int) -> list:
    """The cases that both sequence layers refuse: (change, shapes, message)."""
    x, cont, state = (T, N, D), (T, N), (1, N, H)
    return [
        (("num_output: 2", ""), (x, cont), r"num_output is 0"),
        (("", ""), ((T,), (T,)), r"bottom 0 has shape \(4,\)"),
        (("", ""), (x, (N, T)), r"\(cont\) has shape \(3, 4\), bottom 0 \(4, 3, 5\)"),
        (("", ""), (x, cont, (T, 1)), r"\(x_static\) has shape \(4, 1\) for 3 streams"),
        (("", ""), (x, cont, (N, 1), state), r"4 bottoms"),
        (
            EXPOSE,
            (x, cont, *[state] * states),
            rf"1 top with expose_hidden.*{states + 1}",
        ),
    ]


@pytest.mark.parametrize(("change", "shapes", "message"), bad_shapes(2))
def test_lstm_bad_shapes_are_refused(make_layer, change, shapes, message):
    with pytest.raises(LayerError, match=message):
        make_layer(LSTM.replace(*change), *shapes)


def test_lstm_bad_exposed_state_is_refused(make_layer):
    shapes = (T, N, D), (T, N), (1, N, H), (1, N, H + 1)
    message = r"c_0 has shape \(1, 3, 3\)\. Accepted: \(1, 3, 2\)"
    with pytest.raises(LayerError, match=message):
        make_layer(expose(LSTM, 2), *shapes)


def test_rnn_hand_recurrence_static_input_and_state(make_layer):
    module = make_layer(RNN, (T, N, D), (T, N), (N, 3))
    x, static = draw(2 * T, N, D), draw(N, 3)
    cont = np.concatenate([cont_with_starts()] * 2)
    added = static @ value(module, "W_xh_static").T + value(module, "b_h")
    h, want = np.zeros((N, H)), []
    for t in range(2 * T):
        before = (cont[t][:, None] * h) @ value(module, "W_hh").T
        h = np.tanh(before + x[t] @ value(module, "W_xh").T + added)
        want.append(np.tanh(h @ value(module, "W_ho").T + value(module, "b_o")))
    first, second = slice(0, T), slice(T, 2 * T)
    for half in (first, second):
        top = module(x[half], cont[half], static)
        np.testing.assert_allclose(top, want[half], atol=1e-6)


def test_rnn_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize("static", [False, True])
def test_rnn_gradient_matches_differences(make_layer, check_gradient, static):
    bottoms = [draw(T, N, D), cont_with_starts(), draw(N, 3)][: 2 + static]
    module = make_layer(RNN, *(bottom.shape for bottom in bottoms))
    check_gradient(module, *bottoms, wrt=(0, 2)[: 1 + static])


@pytest.mark.parametrize(("change", "shapes", "message"), bad_shapes(1))
def test_rnn_bad_shapes_are_refused(make_layer, change, shapes, message):
    with pytest.raises(LayerError, match=message):
        make_layer(RNN.replace(*change), *shapes)


def test_lstmunit_hand_sequence_start_forgets_even_nan(make_layer):
    module = make_layer('type: "LSTMUnit"', (1, 2, 1), (1, 2, 4), (1, 2))
    gates = np.log([[[3, 3, 3, 3], [1, np.nan, 1, 1]]]).astype(np.float32)
    c, h = module(np.array([[[2.0], [5.0]]]), gates, np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(c, [[[0.75 * 2 + 0.75 * 0.8], [0]]], rtol=1e-6)
    np.testing.assert_allclose(h, [[[0.75 * np.tanh(2.1)], [0]]], rtol=1e-6)


def test_lstmunit_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


def test_lstmunit_gradient_matches_differences(make_layer, check_gradient):
    shapes = (1, N, H), (1, N, 4 * H), (1, N)
    cont = np.array([[1, 0, 1]], np.float32)
    module = make_layer('type: "LSTMUnit"', *shapes)
    check_gradient(module, draw(*shapes[0]), draw(*shapes[1]), cont, wrt=(0, 1))


@pytest.mark.parametrize(
    "shapes",
    [
        ((1, N, H), (1, N, 3 * H), (1, N)),
        ((2, N, H), (2, N, 4 * H), (2, N)),
        ((N, H), (N, 4 * H), (N,)),
    ],
)
def test_lstmunit_bad_shapes_are_refused(make_layer, shapes):
    with pytest.raises(LayerError, match=r"bottoms have shapes .* 1 x N x 4H"):
        make_layer('type: "LSTMUnit"', *shapes)


def test_lstm_hand_state_is_not_shared_between_copies(make_layer):
    module = make_layer(LSTM, (T, N, D), (T, N))
    graph, params, stats = nnx.split(module, nnx.Param, nnx.BatchStat)
    nnx.merge(graph, params, stats, copy=True)(draw(T, N, D), jnp.ones((T, N)))
    assert not np.any(value(module, "h"))
