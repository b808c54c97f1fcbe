"""Softmax, SoftmaxWithLoss and InfogainLoss."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.errors import LayerError
from jaxcaffe.proto import binary

NAN = np.nan
# log(FLT_MIN), the most that Caffe charges for one label.
WORST = 87.33654475


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def whole(count: int, *shape: int) -> np.ndarray:
    drawn = np.random.default_rng(1).integers(0, count, shape)
    return drawn.astype(np.float32)


def compile_loss(make_layer, text: str, *shapes):
    """Returns a function of the bottoms that gives loss and gradient of the first."""
    module = make_layer(text, *shapes)
    compiled = jax.jit(jax.value_and_grad(lambda *bottoms: module(*bottoms)))

    def call(*bottoms):
        loss, diff = compiled(*(jnp.asarray(b, jnp.float32) for b in bottoms))
        assert loss.shape == ()
        assert loss.dtype == jnp.float32
        return loss, diff

    return call


def run(make_layer, text: str, *bottoms):
    return compile_loss(make_layer, text, *map(np.shape, bottoms))(*bottoms)


def softmax_loss(make_layer, settings: str, scores, labels):
    return run(make_layer, f'type: "SoftmaxWithLoss" {settings}', scores, labels)


def test_softmax_hand_values(make_layer):
    bottom = jnp.log(jnp.array([[1.0, 2, 5], [3, 3, 4]]))
    want = np.array([[1, 2, 5], [3, 3, 4]]) / [[8], [10]]
    np.testing.assert_allclose(
        make_layer('type: "Softmax"', (2, 3))(bottom), want, rtol=1e-6
    )
    over_rows = make_layer('type: "Softmax" softmax_param { axis: 0 }', (2, 3))(bottom)
    want = np.array([[1, 2, 5], [3, 3, 4]]) / [[4, 5, 9]]
    np.testing.assert_allclose(over_rows, want, rtol=1e-6)


def test_softmax_hand_huge_scores_do_not_overflow(make_layer):
    top = make_layer('type: "Softmax"', (1, 3))(jnp.array([[1e30, 1e30, -1e30]]))
    np.testing.assert_array_equal(top, [[0.5, 0.5, 0]])


def test_softmax_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_gradient_matches_differences(make_layer, check_gradient, axis):
    text = f'type: "Softmax" softmax_param {{ axis: {axis} }}'
    check_gradient(make_layer(text, (2, 3, 2)), values(2, 3, 2))


def test_softmax_bad_axis_is_refused(make_layer):
    message = r"axis is 2 for a bottom of shape \(2, 3\)\. Accepted: -2 to 1"
    with pytest.raises(LayerError, match=message):
        make_layer('type: "Softmax" softmax_param { axis: 2 }', (2, 3))


def test_softmaxwithloss_hand_values(make_layer):
    # Probabilities 1/4 3/4 and 1/2 1/2.
    scores = [[0, math.log(3)], [2, 2]]
    loss, diff = softmax_loss(make_layer, "", scores, [0, 1])
    np.testing.assert_allclose(loss, (math.log(4) + math.log(2)) / 2, rtol=1e-6)
    np.testing.assert_allclose(diff, [[-0.375, 0.375], [0.25, -0.25]], rtol=1e-6)


def test_softmaxwithloss_hand_clamp_keeps_the_gradient(make_layer):
    call = compile_loss(make_layer, 'type: "SoftmaxWithLoss"', (1, 2), (1,))
    for low in (-100, -1e30, -np.inf):
        loss, diff = call([[0, low]], [1])
        np.testing.assert_allclose(loss, WORST, rtol=1e-6)
        np.testing.assert_array_equal(diff, [[1, -1]])
    loss, _ = call([[0, -87.25]], [1])  # just above the clamp
    np.testing.assert_allclose(loss, 87.25, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "divisor"),
    [
        ("", 5),
        ("normalization: VALID", 5),
        ("normalization: FULL", 6),
        ("normalization: BATCH_SIZE", 2),
        ("normalization: NONE", 1),
        ("normalize: true", 5),
        ("normalize: false", 2),
        ("normalize: false normalization: FULL", 6),
    ],
)
def test_softmaxwithloss_hand_normalizers(make_layer, settings, divisor):
    # Two items of three positions, equal scores of four classes, one position ignored.
    labels = [[0, 1, 2], [3, 255, 0]]
    loss, diff = softmax_loss(
        make_layer,
        f"loss_param {{ ignore_label: 255 {settings} }}",
        np.zeros((2, 4, 3)),
        labels,
    )
    np.testing.assert_allclose(loss, 5 * math.log(4) / divisor, rtol=1e-6)
    want = np.full((2, 4, 3), 0.25) - np.moveaxis(np.eye(256)[labels][..., :4], 2, 1)
    want[1, :, 1] = 0
    np.testing.assert_allclose(diff, want / divisor, rtol=1e-6)


def test_softmaxwithloss_hand_all_ignored_is_zero(make_layer):
    text = "loss_param { ignore_label: 1 }"
    loss, diff = softmax_loss(make_layer, text, values(2, 3), [1, 1])
    assert loss == 0
    assert not diff.any()


def test_softmaxwithloss_hand_ignored_nan_has_no_effect(make_layer):
    text = "loss_param { ignore_label: 255 }"
    scores = [[NAN, 1], [0, 0]]
    loss, diff = softmax_loss(make_layer, text, scores, [255, 0])
    np.testing.assert_allclose(loss, math.log(2), rtol=1e-6)
    np.testing.assert_allclose(diff, [[0, 0], [-0.5, 0.5]], rtol=1e-6)


@pytest.mark.parametrize("settings", ["", "loss_param { ignore_label: 254 }"])
def test_softmaxwithloss_hand_label_out_of_range_gives_nan(make_layer, settings):
    text = f'type: "SoftmaxWithLoss" {settings}'
    call = compile_loss(make_layer, text, (2, 3), (2,))
    for label in (3, 255, -1, 1e20, NAN):
        loss, diff = call(values(2, 3), [0, label])
        assert np.isnan(loss), label
        assert np.isfinite(diff[0]).all()
        assert np.isnan(diff[1]).all(), label


def test_softmaxwithloss_hand_top_diff_scales_the_gradient(make_layer):
    module = make_layer('type: "SoftmaxWithLoss"', (2, 3), (2,))
    scores, labels = values(2, 3), jnp.array([0.0, 2.0])
    diff = jax.jit(jax.grad(lambda s, weight: weight * module(s, labels)))
    once, thrice = diff(scores, 1.0), diff(scores, 3.0)
    np.testing.assert_allclose(thrice, 3 * once, rtol=1e-6)


def test_softmaxwithloss_hand_second_top_is_the_probabilities(make_layer):
    module = make_layer('type: "SoftmaxWithLoss" top: "l" top: "p"', (2, 3, 4), (2, 4))
    scores = values(2, 3, 4)
    call = jax.jit(lambda *bottoms: module(*bottoms))
    loss, probabilities = call(scores, jnp.zeros((2, 4)))
    powers = np.exp(scores)
    want = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, want, rtol=1e-5)
    np.testing.assert_allclose(loss, -np.log(want[:, 0]).mean(), rtol=1e-5)


def test_softmaxwithloss_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize(
    ("settings", "shape", "axis"),
    [
        ("", (3, 4), 1),
        ("loss_param { ignore_label: 2 }", (2, 4, 3), 1),
        ("softmax_param { axis: -1 } loss_param { normalization: NONE }", (2, 3, 4), 2),
        ("loss_param { normalization: BATCH_SIZE }", (2, 4, 2, 3), 1),
    ],
)
def test_softmaxwithloss_gradient_matches_differences(
    make_layer, check_gradient, settings, shape, axis
):
    labels = whole(4, *shape[:axis], *shape[axis + 1 :])
    module = make_layer(f'type: "SoftmaxWithLoss" {settings}', shape, labels.shape)
    check_gradient(module, values(*shape), labels, wrt=(0,))


@pytest.mark.parametrize(
    ("settings", "shapes", "message"),
    [
        ("softmax_param { axis: 4 }", [(2, 3), (2,)], r"axis is 4 .*Accepted: -2 to 1"),
        ("", [(2, 3), (3,)], r"shapes \(2, 3\) and \(3,\)\. .*first axes"),
        ("", [(2, 3, 4, 4), (2,)], r"labels of shape \(2,\) do not fit .*32 labels"),
        ("", [(2, 3), ()], r"shapes \(2, 3\) and \(\)"),
    ],
)
def test_softmaxwithloss_bad_bottoms_are_refused(make_layer, settings, shapes, message):
    with pytest.raises(LayerError, match=message):
        make_layer(f'type: "SoftmaxWithLoss" {settings}', *shapes)


def infogain(**settings) -> str:
    fields = " ".join(f"{k}: {v}" for k, v in settings.items())
    return f'type: "InfogainLoss" infogain_loss_param {{ {fields} }}'


def test_infogainloss_hand_identity_is_softmaxwithloss(make_layer):
    scores, labels = values(4, 3), whole(3, 4)
    want = softmax_loss(make_layer, "", scores, labels)
    got = run(make_layer, infogain(), scores, labels, np.eye(3))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, want)


def test_infogainloss_hand_rows_are_by_label(make_layer):
    scores = np.log([[1.0, 3]])
    loss, diff = run(make_layer, infogain(), scores, [1], [[9, 9], [2, 4]])
    np.testing.assert_allclose(loss, -(2 * math.log(1 / 4) + 4 * math.log(3 / 4)))
    np.testing.assert_allclose(diff, [[6 / 4 - 2, 18 / 4 - 4]], rtol=1e-6)


def test_infogainloss_hand_clamp_keeps_the_gradient(make_layer):
    loss, diff = run(make_layer, infogain(), [[100.0, 0]], [1], np.eye(2))
    np.testing.assert_allclose(loss, 20 * math.log(10), rtol=1e-6)
    np.testing.assert_allclose(diff, [[1, -1]], rtol=1e-6)


def test_infogainloss_hand_matrix_comes_from_a_file(make_layer, tmp_path):
    path = tmp_path / "H.binaryproto"
    H = values(3, 3, seed=3)
    binary.write_blob(path, H)
    scores, labels = values(4, 3), whole(3, 4)
    want = run(make_layer, infogain(), scores, labels, H)
    got = run(make_layer, infogain(source=f'"{path}"'), scores, labels)
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize("label", [3, -1, NAN])
def test_infogainloss_hand_label_out_of_range_gives_nan(make_layer, label):
    loss, _ = run(make_layer, infogain(), values(2, 3), [0, label], np.eye(3))
    assert np.isnan(loss)


def test_infogainloss_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize("axis", [1, -1])
def test_infogainloss_gradient_matches_differences(make_layer, check_gradient, axis):
    text = infogain(axis=axis) + " loss_param { ignore_label: 2 }"
    scores, labels = values(2, 3, 3), np.array([[0, 1, 2], [2, 2, 1]], np.float32)
    H = values(3, 3, seed=3)
    module = make_layer(text, scores.shape, labels.shape, H.shape)
    check_gradient(module, scores, labels, H, wrt=(0,))


@pytest.mark.parametrize(
    ("settings", "shapes", "message"),
    [
        ({}, [(2, 3), (2,)], "no source for H"),
        ({"source": '"none.binaryproto"'}, [(2, 3), (2,)], "source: none.binaryproto"),
        ({}, [(2, 3), (2,), (3, 4)], r"H has shape \(3, 4\) for 3 classes"),
        ({}, [(2, 3), (2, 3), (3, 3)], r"labels of shape \(2, 3\) do not fit"),
        ({"axis": 2}, [(2, 3), (2,), (3, 3)], "axis is 2"),
    ],
)
def test_infogainloss_bad_bottoms_are_refused(make_layer, settings, shapes, message):
    with pytest.raises(LayerError, match=message):
        make_layer(infogain(**settings), *shapes)
