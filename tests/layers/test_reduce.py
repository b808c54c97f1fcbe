"""Reduction and ArgMax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.errors import LayerError
from jaxcaffe.layers import registry


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def reduction(make_layer, settings: str, shape):
    return make_layer(f'type: "Reduction" reduction_param {{ {settings} }}', shape)


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ("", 5),
        ("operation: ASUM", 9),
        ("operation: SUMSQ", 25),
        ("operation: MEAN", 1.25),
        ("operation: MEAN coeff: -2", -2.5),
        ("operation: ASUM coeff: 0.5", 4.5),
        ("axis: 1", [-1, 6]),
        ("axis: -1 operation: SUMSQ coeff: 2", [10, 40]),
        ("axis: 1 operation: MEAN", [-0.5, 3]),
        ("axis: -2 operation: ASUM", 9),
    ],
)
def test_reduction_hand_adds_up(make_layer, settings, want):
    top = reduction(make_layer, settings, (2, 2))(jnp.array([[1.0, -2], [2, 4]]))
    assert top.dtype == jnp.float32
    np.testing.assert_allclose(top, want)


def test_reduction_hand_keeps_the_axes_before(make_layer):
    module = reduction(make_layer, "axis: 2", (2, 3, 4, 5))
    np.testing.assert_array_equal(module(jnp.ones((2, 3, 4, 5))), np.full((2, 3), 20))


def test_reduction_hand_of_nothing_is_0(make_layer):
    assert reduction(make_layer, "operation: SUMSQ", (0, 3))(jnp.ones((0, 3))) == 0
    top = reduction(make_layer, "operation: ASUM axis: 1", (2, 0))(jnp.ones((2, 0)))
    np.testing.assert_array_equal(top, [0, 0])


def test_reduction_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize("operation", ["SUM", "ASUM", "SUMSQ", "MEAN"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_reduction_gradient_matches_differences(
    make_layer, check_gradient, operation, axis
):
    settings = f"operation: {operation} axis: {axis} coeff: -1.5"
    bottom = values(2, 3, 4)
    bottom += np.copysign(0.1, bottom)  # ASUM has a kink at 0
    check_gradient(reduction(make_layer, settings, (2, 3, 4)), bottom)


def test_reduction_gradient_of_asum_at_0_is_0(make_layer):
    module = reduction(make_layer, "operation: ASUM", (3,))
    gradient = jax.grad(module)(jnp.array([0.0, 2, -2]))
    np.testing.assert_array_equal(gradient, [0, 1, -1])


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ("axis: 2", (2, 3), r"axis is 2 for a bottom of shape \(2, 3\).*-2 to 1"),
        ("axis: -3", (2, 3), "axis is -3"),
        ("", (), r"axis is 0 .*Accepted: a bottom with axes"),
    ],
)
def test_reduction_bad_axis_is_refused(make_layer, settings, shape, message):
    with pytest.raises(LayerError, match=message):
        reduction(make_layer, settings, shape)


def argmax(make_layer, settings: str, shape):
    return make_layer(f'type: "ArgMax" argmax_param {{ {settings} }}', shape)


SCORES = np.array([[1, 5, 5, 2], [7, 0, -1, 3]], np.float32)


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ("", [[[2]], [[0]]]),
        ("top_k: 3", [[[2, 1, 3]], [[0, 3, 1]]]),
        ("out_max_val: true", [[[2], [5]], [[0], [7]]]),
        (
            "out_max_val: true top_k: 2",
            [[[2, 1], [5, 5]], [[0, 3], [7, 3]]],
        ),
        ("axis: 1", [[2], [0]]),
        ("axis: -1 top_k: 2", [[2, 1], [0, 3]]),
        ("axis: 1 top_k: 2 out_max_val: true", [[5, 5], [7, 3]]),
        ("axis: 0", [[1, 0, 0, 1]]),
        ("axis: 0 top_k: 2 out_max_val: true", [[7, 5, 5, 3], [1, 0, -1, 2]]),
        ("axis: 0 out_max_val: false", [[1, 0, 0, 1]]),
    ],
)
def test_argmax_hand_finds_the_largest(make_layer, settings, want):
    top = argmax(make_layer, settings, SCORES.shape)(jnp.asarray(SCORES))
    assert top.dtype == jnp.float32
    np.testing.assert_array_equal(top, want)


@pytest.mark.parametrize(
    ("settings", "shape", "want"),
    [
        ("", (4,), (4, 1, 1)),
        ("out_max_val: true top_k: 2", (2, 3, 4), (2, 2, 2)),
        ("out_max_val: true top_k: 2", (2, 3, 4, 5), (2, 2, 2, 1)),
        ("top_k: 60", (2, 3, 4, 5, 1), (2, 1, 60, 1, 1)),
        ("axis: 2 top_k: 2", (2, 3, 4, 5), (2, 3, 2, 5)),
        ("axis: 0", (4,), (1,)),
        ("top_k: 2", (0, 3), (0, 1, 2)),
        ("axis: 1", (0, 3), (0, 1)),
    ],
)
def test_argmax_hand_top_has_caffes_axes(make_layer, settings, shape, want):
    assert argmax(make_layer, settings, shape)(values(*shape)).shape == want


def test_argmax_hand_looks_through_a_whole_item(make_layer):
    bottom = values(2, 3, 4)
    top = argmax(make_layer, "top_k: 12", (2, 3, 4))(bottom)
    np.testing.assert_array_equal(top[:, 0], np.argsort(-bottom.reshape(2, 12)))


def test_argmax_hand_of_equal_elements_gives_the_larger_index_first(make_layer):
    bottom = jnp.array([[0.0, -0.0, 0.0, -0.0, -1.0]])
    top = jax.jit(argmax(make_layer, "top_k: 5", (1, 5)))(bottom)
    np.testing.assert_array_equal(top, [[[3, 2, 1, 0, 4]]])


def test_argmax_hand_refuses_a_gradient():
    assert registry.lookup("ArgMax").no_gradient == (0,)


def test_argmax_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ("top_k: 0", (2, 3), r"top_k is 0 for 3 elements\. Accepted: 1 to 3"),
        ("top_k: 7", (4, 2, 3), "top_k is 7 for 6 elements"),
        ("top_k: 3 axis: 0", (2, 3), "top_k is 3 for 2 elements"),
        ("axis: 2", (2, 3), r"axis is 2 .*Accepted: -2 to 1"),
        ("", (), r"shape \(\)\. Accepted: a bottom with axes"),
    ],
)
def test_argmax_bad_settings_are_refused(make_layer, settings, shape, message):
    with pytest.raises(LayerError, match=message):
        argmax(make_layer, settings, shape)
