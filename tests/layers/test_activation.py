"""Functions of one element each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from google.protobuf import text_format

from jaxcaffe.errors import LayerError, PrototxtError
from jaxcaffe.layers import registry
from jaxcaffe.net.graph import build_graph
from jaxcaffe.proto import caffe_pb2


def away_from_zero(shape=(2, 3, 4), seed=0) -> np.ndarray:
    values = np.random.default_rng(seed).uniform(0.1, 2, shape).astype(np.float32)
    return values * np.where(np.arange(values.size).reshape(shape) % 2, 1, -1)


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


def test_prelu_hand_each_channel_has_its_slope(make_layer):
    text = 'type: "PReLU" prelu_param { filler { type: "constant" value: 0.5 } }'
    module = make_layer(text, (1, 2, 2))
    module.slope.set_value(jnp.array([0.5, -2.0]))
    bottom = jnp.array([[[-2.0, 0.0], [-3.0, 4.0]]])
    np.testing.assert_array_equal(module(bottom), [[[-1, 0], [6, 4]]])
    np.testing.assert_array_equal(gradient(module, bottom), [[[0.5, 0.5], [-2, 1]]])


def test_prelu_hand_volumes_have_a_slope_per_channel(make_layer):
    module = make_layer('type: "PReLU"', (1, 2, 1, 1, 2))
    module.slope.set_value(jnp.array([0.5, -2.0]))
    bottom = jnp.array([-2.0, 4.0, -3.0, 1.0]).reshape(1, 2, 1, 1, 2)
    np.testing.assert_array_equal(module(bottom).ravel(), [-1, 4, 6, 1])


def test_prelu_hand_slope_starts_at_a_quarter(make_layer):
    module = make_layer('type: "PReLU"', (2, 3))
    np.testing.assert_array_equal(module.slope.get_value(), [0.25] * 3)
    module = make_layer('type: "PReLU" prelu_param { channel_shared: true }', (2, 3))
    assert module.slope.get_value().shape == ()
    np.testing.assert_array_equal(module(jnp.full((2, 3), -4.0)), np.full((2, 3), -1))


def test_prelu_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4), (2, 3, 2, 2)])
@pytest.mark.parametrize("channel_shared", ["true", "false"])
def test_prelu_gradient_matches_differences(
    make_layer, check_gradient, shape, channel_shared
):
    text = f'type: "PReLU" prelu_param {{ channel_shared: {channel_shared} }}'
    check_gradient(make_layer(text, shape), away_from_zero(shape))


def test_prelu_bad_bottom_without_channels_is_refused(make_layer):
    with pytest.raises(LayerError, match=r"shape \(3,\)\. Accepted: a bottom of 2"):
        make_layer('type: "PReLU"', (3,))


def test_elu_hand_values_and_gradient_at_zero(make_layer):
    module = make_layer('type: "ELU" elu_param { alpha: 2 }', (4,))
    bottom = np.array([-1000, -np.log(2), 0, 1000], np.float32)
    np.testing.assert_allclose(module(bottom), [-2, -1, 0, 1000], rtol=1e-6)
    np.testing.assert_allclose(gradient(module, bottom), [0, 1, 2, 1], rtol=1e-6)


def test_elu_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize("alpha", [0, 0.5, 1, -1])
def test_elu_gradient_matches_differences(make_layer, check_gradient, alpha):
    text = f'type: "ELU" elu_param {{ alpha: {alpha} }}'
    check_gradient(make_layer(text, (2, 3, 4)), away_from_zero())


def test_elu_bad_number_of_bottoms_is_refused():
    with pytest.raises(PrototxtError, match=r'layer "n" \(ELU\): 2 bottom'):
        build_with_two_bottoms("ELU")


def test_bnll_hand_values_without_overflow(make_layer):
    module = make_layer('type: "BNLL"', (4,))
    bottom = np.array([-1000, 0, np.log(3), 1000], np.float32)
    want = [0, np.log(2), np.log(4), 1000]
    np.testing.assert_allclose(module(bottom), want, rtol=1e-6)
    np.testing.assert_allclose(gradient(module, bottom), [0, 0.5, 0.75, 1], rtol=1e-6)


def test_bnll_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


def test_bnll_gradient_matches_differences(make_layer, check_gradient):
    check_gradient(make_layer('type: "BNLL"', (2, 3, 4)), away_from_zero())


def test_bnll_bad_number_of_bottoms_is_refused():
    with pytest.raises(PrototxtError, match=r'layer "n" \(BNLL\): 2 bottom'):
        build_with_two_bottoms("BNLL")


def test_swish_hand_values(make_layer):
    module = make_layer('type: "Swish" swish_param { beta: 2 }', (3,))
    bottom = np.array([-np.log(3) / 2, 0, np.log(3) / 2], np.float32)
    want = bottom * np.array([0.25, 0.5, 0.75])
    np.testing.assert_allclose(module(bottom), want, rtol=1e-6)
    np.testing.assert_allclose(gradient(module, bottom)[1], 0.5, rtol=1e-6)


def test_swish_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize("beta", [0, 1, 3])
def test_swish_gradient_matches_differences(make_layer, check_gradient, beta):
    text = f'type: "Swish" swish_param {{ beta: {beta} }}'
    check_gradient(make_layer(text, (2, 3, 4)), away_from_zero())


def test_swish_bad_number_of_bottoms_is_refused():
    with pytest.raises(PrototxtError, match=r'layer "n" \(Swish\): 2 bottom'):
        build_with_two_bottoms("Swish")


def test_absval_hand_zero_has_no_gradient(make_layer):
    module = make_layer('type: "AbsVal"', (3,))
    bottom = jnp.array([-2.0, 0.0, 3.0])
    np.testing.assert_array_equal(module(bottom), [2, 0, 3])
    np.testing.assert_array_equal(gradient(module, bottom), [-1, 0, 1])


def test_absval_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


def test_absval_gradient_matches_differences(make_layer, check_gradient):
    check_gradient(make_layer('type: "AbsVal"', (2, 3, 4)), away_from_zero())


def test_absval_bad_number_of_bottoms_is_refused():
    with pytest.raises(PrototxtError, match=r'layer "n" \(AbsVal\): 2 bottom'):
        build_with_two_bottoms("AbsVal")


def test_clip_hand_borders_pass_a_gradient(make_layer):
    module = make_layer('type: "Clip" clip_param { min: -1 max: 2 }', (5,))
    bottom = jnp.array([-3.0, -1.0, 0.5, 2.0, 4.0])
    np.testing.assert_array_equal(module(bottom), [-1, -1, 0.5, 2, 2])
    np.testing.assert_array_equal(gradient(module, bottom), [0, 1, 1, 1, 0])


def test_clip_hand_nan_stays_visible(make_layer):
    module = make_layer('type: "Clip" clip_param { min: -1 max: 2 }', (1,))
    assert np.isnan(module(jnp.array([jnp.nan])))


def test_clip_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


def test_clip_gradient_matches_differences(make_layer, check_gradient):
    module = make_layer('type: "Clip" clip_param { min: -1.5 max: 0.05 }', (2, 3, 4))
    check_gradient(module, away_from_zero())


@pytest.mark.parametrize(("given", "missing"), [("min", "max"), ("max", "min")])
def test_clip_bad_missing_border_is_refused(make_layer, given, missing):
    layer = caffe_pb2.LayerParameter(type="Clip")
    setattr(layer.clip_param, given, 1)
    module = registry.lookup("Clip").module
    with pytest.raises(LayerError, match=rf"no {missing}\. Accepted: clip_param"):
        module(layer, [(2,)], caffe_pb2.TRAIN, nnx.Rngs(0))


def test_threshold_hand_equal_is_not_above(make_layer):
    text = 'type: "Threshold" threshold_param { threshold: 0.5 }'
    bottom = jnp.array([-1.0, 0.5, 0.6])
    module = make_layer(text, (3,))
    np.testing.assert_array_equal(module(bottom), [0, 0, 1])
    np.testing.assert_array_equal(gradient(module, bottom), [0, 0, 0])


def test_threshold_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


def test_threshold_bad_number_of_bottoms_is_refused():
    with pytest.raises(PrototxtError, match=r'layer "n" \(Threshold\): 2 bottom'):
        build_with_two_bottoms("Threshold")
