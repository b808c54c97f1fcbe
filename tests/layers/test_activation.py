"""ReLU, Sigmoid, TanH and Dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from google.protobuf import text_format

from jaxcaffe.errors import LayerError, PrototxtError
from jaxcaffe.net.graph import build_graph
from jaxcaffe.proto import caffe_pb2


def away_from_zero(shape=(2, 3, 4), seed=0) -> np.ndarray:
    values = np.random.default_rng(seed).uniform(0.1, 2, shape).astype(np.float32)
    return values * np.where(np.arange(values.size).reshape(shape) % 2, 1, -1)


def random_key(seed: int) -> jax.Array:
    # Compiles far sooner than the default generator, and dropout takes any key.
    return jax.random.key(seed, impl="rbg")


def build_with_two_bottoms(type_: str) -> None:
    """Reads a net whose second layer has one bottom too many."""
    net = text_format.Parse(
        f"""
        layer {{ name: "in" type: "Input" top: "a" top: "b"
                 input_param {{ shape {{ dim: 1 }} }} }}
        layer {{ name: "n" type: "{type_}" bottom: "a" bottom: "b" top: "c" }}
        """,
        caffe_pb2.NetParameter(),
    )
    build_graph(net, caffe_pb2.NetState())


def gradient(module, bottom):
    return jax.grad(lambda b: module(b).sum())(jnp.asarray(bottom))


def test_relu_hand_zero_belongs_to_the_negative_side(make_layer):
    bottom = jnp.array([-2.0, 0.0, 3.0])
    plain = make_layer('type: "ReLU"', (3,))
    np.testing.assert_array_equal(plain(bottom), [0, 0, 3])
    np.testing.assert_array_equal(gradient(plain, bottom), [0, 0, 1])
    leaky = make_layer('type: "ReLU" relu_param { negative_slope: 0.5 }', (3,))
    np.testing.assert_array_equal(leaky(bottom), [-1, 0, 3])
    np.testing.assert_array_equal(gradient(leaky, bottom), [0.5, 0.5, 1])


@pytest.mark.parametrize("negative_slope", [0, 0.25])
def test_relu_hand_nan_stays_visible(make_layer, negative_slope):
    text = f'type: "ReLU" relu_param {{ negative_slope: {negative_slope} }}'
    assert np.isnan(make_layer(text, (1,))(jnp.array([jnp.nan])))


def test_relu_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize("negative_slope", [0, 0.1, -0.5, 2])
def test_relu_gradient_matches_differences(make_layer, check_gradient, negative_slope):
    text = f'type: "ReLU" relu_param {{ negative_slope: {negative_slope} }}'
    check_gradient(make_layer(text, (2, 3, 4)), away_from_zero())


def test_relu_bad_number_of_bottoms_is_refused():
    with pytest.raises(PrototxtError, match=r'layer "n" \(ReLU\): 2 bottom'):
        build_with_two_bottoms("ReLU")


def test_sigmoid_hand_values(make_layer):
    module = make_layer('type: "Sigmoid"', (5,))
    bottom = np.array([-1000, np.log(1 / 3), 0, np.log(3), 1000], np.float32)
    np.testing.assert_allclose(module(bottom), [0, 0.25, 0.5, 0.75, 1], rtol=1e-6)
    want = [0, 0.1875, 0.25, 0.1875, 0]  # s (1 - s)
    np.testing.assert_allclose(gradient(module, bottom), want, rtol=1e-6)


def test_sigmoid_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


def test_sigmoid_gradient_matches_differences(make_layer, check_gradient):
    check_gradient(make_layer('type: "Sigmoid"', (2, 3, 4)), away_from_zero())


def test_sigmoid_bad_number_of_bottoms_is_refused():
    with pytest.raises(PrototxtError, match=r'layer "n" \(Sigmoid\): 2 bottom'):
        build_with_two_bottoms("Sigmoid")


def test_tanh_hand_values(make_layer):
    module = make_layer('type: "TanH"', (4,))
    bottom = np.array([-1000, 0, np.log(2), 1000], np.float32)
    np.testing.assert_allclose(module(bottom), [-1, 0, 0.6, 1], rtol=1e-6)
    np.testing.assert_allclose(gradient(module, bottom), [0, 1, 0.64, 0], rtol=1e-6)


def test_tanh_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


def test_tanh_gradient_matches_differences(make_layer, check_gradient):
    check_gradient(make_layer('type: "TanH"', (2, 3, 4)), away_from_zero())


def test_tanh_bad_number_of_bottoms_is_refused():
    with pytest.raises(PrototxtError, match=r'layer "n" \(TanH\): 2 bottom'):
        build_with_two_bottoms("TanH")


def dropout_text(ratio: float) -> str:
    return f'type: "Dropout" dropout_param {{ dropout_ratio: {ratio} }}'


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.9])
def test_dropout_hand_train_drops_the_ratio_and_scales_the_rest(make_layer, ratio):
    shape = (100, 1000)
    module = make_layer(dropout_text(ratio), shape)
    bottom = jnp.full(shape, 3.0)
    call = jax.jit(lambda b: module(b, key=random_key(1)))
    top, pull = jax.vjp(call, bottom)
    kept = np.asarray(top != 0)
    # 100 000 draws: the standard error of the share is below 0.0016.
    assert abs(kept.mean() - (1 - ratio)) < 0.008
    np.testing.assert_allclose(top[kept], 3 / (1 - ratio), rtol=1e-6)
    (diff,) = pull(jnp.ones(shape))
    np.testing.assert_allclose(diff, top / 3, rtol=1e-6)


def test_dropout_hand_default_ratio_is_a_half(make_layer):
    top = make_layer('type: "Dropout"', (64,))(jnp.ones(64), key=random_key(0))
    assert set(np.asarray(top).tolist()) == {0.0, 2.0}


def test_dropout_hand_key_decides_mask(make_layer):
    module, bottom = make_layer('type: "Dropout"', (64,)), jnp.ones(64)
    once, again, other = (
        np.asarray(module(bottom, key=random_key(seed))) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(once, again)
    assert (once != other).any()


def test_dropout_hand_test_phase_and_ratio_0_change_nothing(make_layer):
    bottom, key = jnp.arange(8.0), random_key(0)
    module = make_layer('type: "Dropout"', (8,), phase=caffe_pb2.TEST)
    np.testing.assert_array_equal(module(bottom, key=key), bottom)
    module = make_layer(dropout_text(0), (8,))
    np.testing.assert_array_equal(module(bottom, key=key), bottom)


def test_dropout_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


def test_dropout_gradient_matches_differences(make_layer, check_gradient):
    module = make_layer('type: "Dropout"', (2, 3, 4))
    check_gradient(module, away_from_zero(), key=random_key(3))


@pytest.mark.parametrize("ratio", [-0.1, 1, 1.5, "nan"])
def test_dropout_bad_ratio_is_refused(make_layer, ratio):
    message = rf"dropout_ratio is {ratio}\. Accepted: 0 up to, not including, 1"
    with pytest.raises(LayerError, match=message):
        make_layer(dropout_text(ratio), (2,))
