"""Eltwise and Power."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from google.protobuf import text_format

from jaxcaffe.errors import LayerError, PrototxtError
from jaxcaffe.net.graph import build_graph
from jaxcaffe.proto import caffe_pb2


def eltwise(make_layer, settings: str, *shapes):
    return make_layer(f'type: "Eltwise" eltwise_param {{ {settings} }}', *shapes)


def power(make_layer, settings: str, *shapes):
    return make_layer(f'type: "Power" power_param {{ {settings} }}', *shapes)


def bottom_diffs(module, *bottoms):
    total = lambda *b: module(*b).sum()  # noqa: E731
    return jax.grad(total, argnums=tuple(range(len(bottoms))))(*bottoms)


def test_eltwise_hand_sum_weighs_bottoms(make_layer):
    a, b = jnp.array([1.0, 2.0]), jnp.array([10.0, 20.0])
    np.testing.assert_array_equal(eltwise(make_layer, "", (2,), (2,))(a, b), [11, 22])
    module = eltwise(make_layer, "coeff: 2 coeff: -0.5", (2,), (2,))
    np.testing.assert_array_equal(module(a, b), [-3, -6])
    np.testing.assert_array_equal(bottom_diffs(module, a, b), [[2, 2], [-0.5, -0.5]])


@pytest.mark.parametrize("stable", ["true", "false"])
def test_eltwise_hand_product_gradient_survives_zero(make_layer, stable):
    module = eltwise(
        make_layer, f"operation: PROD stable_prod_grad: {stable}", *[(3,)] * 3
    )
    a, b, c = jnp.array([2.0, 0, 0]), jnp.array([3.0, 5, 0]), jnp.array([4.0, 6, 7])
    np.testing.assert_array_equal(module(a, b, c), [24, 0, 0])
    np.testing.assert_array_equal(
        bottom_diffs(module, a, b, c), [[12, 30, 0], [8, 0, 0], [6, 0, 0]]
    )


def test_eltwise_hand_maximum_of_equals_is_bottom_1(make_layer):
    #      all equal, 0 = 1 < 2, 0 = 2 > 1, 1 = 2 > 0, 0 alone
    a = jnp.array([1.0, 1.0, 5.0, 1.0, 9.0])
    b = jnp.array([1.0, 1.0, 2.0, 5.0, 1.0])
    c = jnp.array([1.0, 4.0, 5.0, 5.0, 1.0])
    module = eltwise(make_layer, "operation: MAX", *[(5,)] * 3)
    np.testing.assert_array_equal(module(a, b, c), [1, 4, 5, 5, 9])
    np.testing.assert_array_equal(
        bottom_diffs(module, a, b, c),
        [[0, 0, 1, 0, 1], [1, 0, 0, 1, 0], [0, 1, 0, 0, 0]],
    )


def test_eltwise_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize(
    "settings",
    [
        "operation: PROD",
        "operation: SUM",
        "coeff: 1 coeff: -2 coeff: 0.5",
        "operation: MAX",
    ],
)
def test_eltwise_gradient_matches_differences(make_layer, check_gradient, settings):
    # Distinct multiples of 0.1: no two bottoms within a step of each other.
    values = np.random.default_rng(0).permutation(72).astype(np.float32) / 10 - 3.5
    bottoms = values.reshape(3, 2, 3, 4)
    check_gradient(eltwise(make_layer, settings, *[(2, 3, 4)] * 3), *bottoms)


@pytest.mark.parametrize(
    ("settings", "shapes", "message"),
    [
        ("coeff: 1", [(2,), (2,)], r"1 coeff for 2 bottoms\. Accepted: none, or 2"),
        ("operation: PROD coeff: 1 coeff: 1", [(2,), (2,)], "coeff is set for .*PROD"),
        (
            "",
            [(2, 3), (2, 3), (3, 2)],
            r"bottom 2 has shape \(3, 2\), bottom 0 \(2, 3\)",
        ),
    ],
)
def test_eltwise_bad_settings_are_refused(make_layer, settings, shapes, message):
    with pytest.raises(LayerError, match=message):
        eltwise(make_layer, settings, *shapes)


def test_power_hand_values(make_layer):
    bottom = jnp.array([-1.0, 0.0, 1.0, 3.0])
    module = power(make_layer, "power: 2 scale: 2 shift: 1", (4,))
    np.testing.assert_array_equal(module(bottom), [1, 1, 9, 49])
    (diff,) = bottom_diffs(module, bottom)
    np.testing.assert_array_equal(diff, [-4, 4, 12, 28])  # 2 * 2 * (1 + 2 x)


@pytest.mark.parametrize("exponent", [2, 3, 5, 65, 1.5])
def test_power_hand_gradient_at_zero_is_zero(make_layer, exponent):
    bottom = jnp.zeros(2)
    (diff,) = bottom_diffs(power(make_layer, f"power: {exponent}", (2,)), bottom)
    np.testing.assert_array_equal(diff, [0, 0])


@pytest.mark.parametrize("exponent", [3, 65])
def test_power_hand_odd_power_of_negative_keeps_its_sign(make_layer, exponent):
    top = power(make_layer, f"power: {exponent}", (1,))(jnp.array([-1.5]))
    np.testing.assert_allclose(top, [-(1.5**exponent)], rtol=1e-5)


def test_power_hand_fraction_of_negative_is_nan(make_layer):
    assert np.isnan(power(make_layer, "power: 0.5", (1,))(jnp.array([-1.0])))


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ("power: 0", 1),
        ("power: 0 shift: 5 scale: 2", 1),
        ("scale: 0 shift: 3 power: 2", 9),
        ("scale: 0 shift: 4 power: 0.5", 2),
        ("scale: 0 shift: 0.5", 0.5),
        ("scale: 0 shift: 0 power: -1", np.inf),
    ],
)
def test_power_hand_constant_ignores_the_bottom(make_layer, settings, want):
    bottom = jnp.array([0.0, 2.0, jnp.nan])
    module = power(make_layer, settings, (3,))
    np.testing.assert_allclose(module(bottom), [want] * 3, rtol=1e-6)
    np.testing.assert_array_equal(bottom_diffs(module, bottom)[0], [0, 0, 0])


def test_power_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize(
    "settings",
    [
        "",
        "power: 3",
        "power: -2",
        "power: 0.7 shift: 2",
        "power: 2.5 scale: -1 shift: 4",
    ],
)
def test_power_gradient_matches_differences(make_layer, check_gradient, settings):
    bottom = np.random.default_rng(0).uniform(0.5, 1.5, (2, 6)).astype(np.float32)
    check_gradient(power(make_layer, settings, (2, 6)), bottom)


def test_power_bad_number_of_tops_is_refused():
    net = text_format.Parse(
        """
        layer { name: "in" type: "Input" top: "a" input_param { shape { dim: 1 } } }
        layer { name: "p" type: "Power" bottom: "a" top: "b" top: "c" }
        """,
        caffe_pb2.NetParameter(),
    )
    with pytest.raises(PrototxtError, match=r'layer "p" \(Power\): 2 top'):
        build_graph(net, caffe_pb2.NetState())


def test_exp_hand_base_scale_and_shift(make_layer):
    text = 'type: "Exp" exp_param { base: 2 scale: 3 shift: 1 }'
    module = make_layer(text, (3,))
    bottom = jnp.array([0.0, 1.0, -1.0])
    np.testing.assert_allclose(module(bottom), [2, 16, 0.25], rtol=1e-6)
    np.testing.assert_allclose(make_layer('type: "Exp"', (1,))(jnp.ones(1)), np.e)


def test_exp_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize("settings", ["", "base: 2 scale: -0.5 shift: 1", "base: 0.5"])
def test_exp_gradient_matches_differences(make_layer, check_gradient, settings):
    module = make_layer(f'type: "Exp" exp_param {{ {settings} }}', (2, 3))
    check_gradient(module, np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3))


@pytest.mark.parametrize("base", [0, -2, "inf", "nan"])
def test_exp_bad_base_is_refused(make_layer, base):
    with pytest.raises(LayerError, match=rf"base is {base}\. Accepted: a base above 0"):
        make_layer(f'type: "Exp" exp_param {{ base: {base} }}', (1,))


def test_log_hand_base_scale_and_shift(make_layer):
    module = make_layer('type: "Log" log_param { base: 2 scale: 3 shift: 1 }', (3,))
    bottom = jnp.array([0.0, 1.0, 5.0])
    np.testing.assert_allclose(module(bottom), [0, 2, 4], rtol=1e-6)
    natural = make_layer('type: "Log"', (1,))
    np.testing.assert_allclose(natural(jnp.full(1, np.e)), [1], rtol=1e-6)


def test_log_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize("settings", ["", "base: 2 scale: 0.5 shift: 1", "base: 0.5"])
def test_log_gradient_matches_differences(make_layer, check_gradient, settings):
    module = make_layer(f'type: "Log" log_param {{ {settings} }}', (2, 3))
    check_gradient(module, np.linspace(1, 2, 6, dtype=np.float32).reshape(2, 3))


def test_log_bad_base_1_is_refused(make_layer):
    with pytest.raises(LayerError, match=r"base is 1, to which nothing has a log"):
        make_layer('type: "Log" log_param { base: 1 }', (1,))
