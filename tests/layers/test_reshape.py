"""Flatten, Reshape, Tile and Crop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.errors import LayerError


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ("", (2, 60)),
        ("axis: 0", (120,)),
        ("axis: 2", (2, 3, 20)),
        ("axis: -2", (2, 3, 20)),
        ("end_axis: 2", (2, 12, 5)),
        ("axis: 0 end_axis: -2", (24, 5)),
        ("axis: 1 end_axis: 1", (2, 3, 4, 5)),
        ("axis: 2 end_axis: 1", (2, 3, 1, 4, 5)),
    ],
)
def test_flatten_hand_merges_axes(make_layer, settings, want):
    text = f'type: "Flatten" flatten_param {{ {settings} }}'
    bottom = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
    top = make_layer(text, (2, 3, 4, 5))(bottom)
    assert top.shape == want
    np.testing.assert_array_equal(np.ravel(top), np.arange(120))


def test_flatten_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


def test_flatten_gradient_matches_differences(make_layer, check_gradient):
    check_gradient(make_layer('type: "Flatten"', (2, 3, 2)), values(2, 3, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("axis: 4", r"axis is 4 .*Accepted: -4 to 3"),
        ("end_axis: -5", "end_axis is -5"),
        ("axis: 3 end_axis: 1", "axis 3 lies behind end_axis 1"),
    ],
)
def test_flatten_bad_axes_are_refused(make_layer, settings, message):
    with pytest.raises(LayerError, match=message):
        make_layer(f'type: "Flatten" flatten_param {{ {settings} }}', (2, 3, 4, 5))


def reshape(make_layer, settings: str, shape):
    return make_layer(f'type: "Reshape" reshape_param {{ {settings} }}', shape)


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ("shape { dim: 4 dim: 30 }", (4, 30)),
        ("shape { dim: 0 dim: -1 }", (2, 60)),
        ("shape { dim: 0 dim: 0 dim: 0 dim: 0 }", (2, 3, 4, 5)),
        ("shape { dim: -1 dim: 0 }", (40, 3)),
        ("shape { dim: -1 }", (120,)),
        ("shape { dim: 6 dim: -1 } axis: 1", (2, 6, 10)),
        ("shape { dim: -1 } axis: 1 num_axes: 2", (2, 12, 5)),
        ("shape { dim: 2 dim: 2 } axis: 2 num_axes: 1", (2, 3, 2, 2, 5)),
        ("shape { dim: 2 dim: -1 } axis: -3", (2, 3, 2, 10)),
        ("shape { dim: 1 dim: 1 } axis: -1", (2, 3, 4, 5, 1, 1)),
        ("shape { dim: 1 } axis: 4", (2, 3, 4, 5, 1)),
        ("shape { dim: 1 } num_axes: 0", (1, 2, 3, 4, 5)),
        ("shape { dim: 1 dim: -1 } axis: 1 num_axes: 0", (2, 1, 1, 3, 4, 5)),
        ("shape { dim: 2 dim: 0 dim: -1 } num_axes: 3", (2, 3, 4, 5)),
        # The 0 copies the axis at its place, which here stays as well.
        ("shape { dim: -1 dim: 0 } axis: 1 num_axes: 2", (2, 3, 4, 5)),
    ],
)
def test_reshape_hand_replaces_axes(make_layer, settings, want):
    bottom = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
    top = reshape(make_layer, settings, (2, 3, 4, 5))(bottom)
    assert top.shape == want
    np.testing.assert_array_equal(np.ravel(top), np.arange(120))


def test_reshape_hand_without_dims_makes_a_scalar(make_layer):
    assert reshape(make_layer, "", (1, 1))(jnp.ones((1, 1))).shape == ()
    assert reshape(make_layer, "shape { dim: 1 }", ())(jnp.ones(())).shape == (1,)


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ("shape { dim: 0 dim: -1 }", (0, 12)),
        ("shape { dim: -1 } axis: 1", (0, 12)),
        ("shape { dim: -1 dim: 12 }", (0, 12)),
    ],
)
def test_reshape_hand_infers_beside_an_empty_axis(make_layer, settings, want):
    assert reshape(make_layer, settings, (0, 3, 4))(jnp.ones((0, 3, 4))).shape == want


def test_reshape_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


def test_reshape_gradient_matches_differences(make_layer, check_gradient):
    module = reshape(make_layer, "shape { dim: 0 dim: -1 }", (2, 3, 2))
    check_gradient(module, values(2, 3, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("axis: 4", r"axis is 4 for a bottom of shape \(2, 3, 4\)\. .*: -4 to 3"),
        ("axis: -5", "axis is -5"),
        ("num_axes: -2", r"num_axes is -2 from axis 0 .*Accepted: 0 to 3, or -1"),
        ("axis: 2 num_axes: 2", "num_axes is 2 from axis 2"),
        ("shape { dim: -1 dim: -1 }", r"shape is \[-1, -1\].*at most one -1"),
        ("shape { dim: 24 dim: -2 }", r"shape is \[24, -2\]"),
        (
            "shape { dim: -1 dim: 0 } axis: 2",
            r"dim 1 of shape \[-1, 0\] is 0, but .* has no axis 3 to copy",
        ),
        ("shape { dim: 5 dim: -1 }", r"\[5, -1\] does not divide .*\(2, 3, 4\)"),
        (
            "shape { dim: 3 dim: 0 dim: -1 } num_axes: 1",
            r"\[3, 0, -1\] does not divide",
        ),
        (
            "shape { dim: 5 dim: 0 }",
            r"\(2, 3, 4\) with 24 elements into \(5, 3\) with 15\. Accepted",
        ),
        ("", r"shape \[\] makes \(2, 3, 4\) with 24 elements into \(\) with 1"),
    ],
)
def test_reshape_bad_settings_are_refused(make_layer, settings, message):
    with pytest.raises(LayerError, match=message):
        reshape(make_layer, settings, (2, 3, 4))


def test_reshape_bad_inference_beside_an_empty_axis_is_refused(make_layer):
    # The copied axis stays behind as well: anything would do for -1.
    settings = "shape { dim: -1 dim: 0 } num_axes: 1"
    with pytest.raises(LayerError, match="does not divide"):
        reshape(make_layer, settings, (3, 0))


def tile(make_layer, settings: str, shape):
    return make_layer(f'type: "Tile" tile_param {{ {settings} }}', shape)


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ("tiles: 2", [[1, 2, 1, 2], [3, 4, 3, 4]]),
        ("axis: -1 tiles: 2", [[1, 2, 1, 2], [3, 4, 3, 4]]),
        ("axis: 0 tiles: 2", [[1, 2], [3, 4], [1, 2], [3, 4]]),
        ("tiles: 1", [[1, 2], [3, 4]]),
    ],
)
def test_tile_hand_repeats_the_axis(make_layer, settings, want):
    top = tile(make_layer, settings, (2, 2))(jnp.array([[1.0, 2], [3, 4]]))
    np.testing.assert_array_equal(top, want)


def test_tile_hand_gradient_is_the_sum_over_tiles(make_layer):
    _, pull = jax.vjp(tile(make_layer, "axis: 0 tiles: 3", (2,)), jnp.zeros(2))
    (gradient,) = pull(jnp.array([1.0, 2, 10, 20, 100, 200]))
    np.testing.assert_array_equal(gradient, [111, 222])


def test_tile_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


def test_tile_gradient_matches_differences(make_layer, check_gradient):
    check_gradient(tile(make_layer, "tiles: 3", (2, 3, 2)), values(2, 3, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("", r"tiles is not set\. Accepted: tiles: 1 or more"),
        ("tiles: 0", r"tiles is 0\. Accepted: 1 or more"),
        ("tiles: -2", "tiles is -2"),
        ("tiles: 2 axis: 2", r"axis is 2 .*Accepted: -2 to 1"),
    ],
)
def test_tile_bad_settings_are_refused(make_layer, settings, message):
    with pytest.raises(LayerError, match=message):
        tile(make_layer, settings, (2, 3))


def crop(make_layer, settings: str, *shapes):
    return make_layer(f'type: "Crop" crop_param {{ {settings} }}', *shapes)


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ("axis: 0", [[0, 1, 2], [4, 5, 6]]),
        ("axis: 0 offset: 1", [[5, 6, 7], [9, 10, 11]]),
        ("axis: 0 offset: 2 offset: 0", [[8, 9, 10], [12, 13, 14]]),
        ("axis: 0 offset: 0 offset: 1", [[1, 2, 3], [5, 6, 7]]),
        ("axis: 1", [[0, 1, 2], [4, 5, 6], [8, 9, 10], [12, 13, 14]]),
        ("axis: -1 offset: 1", [[1, 2, 3], [5, 6, 7], [9, 10, 11], [13, 14, 15]]),
    ],
)
def test_crop_hand_cuts_a_piece_of_bottom_1s_lengths(make_layer, settings, want):
    bottom = jnp.arange(16.0).reshape(4, 4)
    module = crop(make_layer, settings, (4, 4), (2, 3))
    np.testing.assert_array_equal(module(bottom, jnp.zeros((2, 3))), want)


def test_crop_hand_leaves_batch_and_channels_by_default(make_layer):
    shapes = (2, 3, 4, 5), (7, 1, 2, 3)
    top = crop(make_layer, "offset: 1", *shapes)(
        values(*shapes[0]), jnp.ones(shapes[1])
    )
    np.testing.assert_array_equal(top, values(2, 3, 4, 5)[:, :, 1:3, 1:4])


def test_crop_hand_looks_only_at_the_first_axes_of_bottom_1(make_layer):
    top = crop(make_layer, "axis: 0", (4,), (2, 9))(jnp.arange(4.0), jnp.ones((2, 9)))
    np.testing.assert_array_equal(top, [0, 1])


def test_crop_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


def test_crop_gradient_matches_differences(make_layer, check_gradient):
    module = crop(make_layer, "offset: 0 offset: 1", (1, 2, 3, 4), (1, 1, 2, 2))
    check_gradient(module, values(1, 2, 3, 4), values(1, 1, 2, 2))


def test_crop_gradient_of_bottom_1_is_zero(make_layer):
    module = crop(make_layer, "axis: 0", (3,), (2,))
    gradient = jax.grad(lambda ref: module(jnp.arange(3.0), ref).sum())(jnp.ones(2))
    np.testing.assert_array_equal(gradient, [0, 0])


@pytest.mark.parametrize(
    ("settings", "shapes", "message"),
    [
        ("", [(4, 4), (2, 2)], r"axis is 2 .*Accepted: -2 to 1"),
        ("axis: 1", [(4, 4), (2,)], r"bottom 1 has shape \(2,\), bottom 0 \(4, 4\)"),
        (
            "axis: 0 offset: 1 offset: 1 offset: 1",
            [(4, 4), (2, 2)],
            r"3 offset for the 2 axes from axis 0 on\. Accepted: none, 1, or 2",
        ),
        (
            "axis: 1 offset: 1 offset: 1",
            [(4, 4), (2, 2)],
            r"2 offset for the 1 axes .*Accepted: none, 1\.",
        ),
        (
            "axis: 0 offset: 2 offset: 3",
            [(4, 4), (2, 2)],
            r"axis 1 bottom 1 has length 2, which at offset 3 .*length 4 of bottom 0",
        ),
        ("axis: 0", [(4, 4), (5, 2)], r"axis 0 bottom 1 has length 5, .*at offset 0"),
    ],
)
def test_crop_bad_settings_are_refused(make_layer, settings, shapes, message):
    with pytest.raises(LayerError, match=message):
        crop(make_layer, settings, *shapes)
