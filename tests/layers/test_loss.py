"""Softmax and the losses."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.errors import LayerError

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


def test_euclideanloss_hand_values(make_layer):
    a, b = [[1, 2], [3, 4]], [[1, 0], [0, 4]]
    loss, diff = run(make_layer, 'type: "EuclideanLoss"', a, b)
    assert loss == 13 / 4  # (4 + 9) / (2 * 2)
    np.testing.assert_array_equal(diff, [[0, 1], [1.5, 0]])


def test_euclideanloss_hand_second_bottom_gets_the_opposite(make_layer):
    module = make_layer('type: "EuclideanLoss"', (2, 3), (2, 3, 1))
    a, b = values(2, 3), values(2, 3, 1, seed=1)
    first, second = jax.grad(lambda *bottoms: module(*bottoms), argnums=(0, 1))(a, b)
    np.testing.assert_allclose(second[..., 0], -first, rtol=1e-6)


def test_euclideanloss_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


def test_euclideanloss_gradient_matches_differences(make_layer, check_gradient):
    module = make_layer('type: "EuclideanLoss"', (2, 3), (2, 3))
    check_gradient(module, values(2, 3), values(2, 3, seed=1))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 3), (3, 2)], "first axes have one length"),
        ([(2, 3), (2, 4)], r"\(2, 3\) and \(2, 4\)\. .*one number of elements"),
    ],
)
def test_euclideanloss_bad_bottoms_are_refused(make_layer, shapes, message):
    with pytest.raises(LayerError, match=message):
        make_layer('type: "EuclideanLoss"', *shapes)


def cross_entropy(make_layer, settings: str, scores, targets):
    text = f'type: "SigmoidCrossEntropyLoss" loss_param {{ {settings} }}'
    return run(make_layer, text, scores, targets)


def test_sigmoidcrossentropyloss_hand_values(make_layer):
    # Sigmoids 3/4 and 1/2, of one item.
    scores, targets = [[math.log(3), 0]], [[1, 0.25]]
    loss, diff = cross_entropy(make_layer, "", scores, targets)
    np.testing.assert_allclose(loss, math.log(4 / 3) + math.log(2), rtol=1e-6)
    np.testing.assert_allclose(diff, [[-0.25, 0.25]], rtol=1e-6)


def test_sigmoidcrossentropyloss_hand_huge_scores_do_not_overflow(make_layer):
    loss, diff = cross_entropy(make_layer, "", [[1e4, -1e4, 1e4]], [[1, 0, 0]])
    assert loss == 1e4
    np.testing.assert_array_equal(diff, [[0, 0, 1]])


@pytest.mark.parametrize(
    ("settings", "divisor"),
    [
        ("", 2),
        ("normalization: VALID", 4),
        ("normalization: FULL", 6),
        ("normalization: BATCH_SIZE", 2),
        ("normalization: NONE", 1),
        ("normalize: true", 4),
        ("normalize: false", 2),
        ("normalize: true normalization: FULL", 6),
    ],
)
def test_sigmoidcrossentropyloss_hand_normalizers(make_layer, settings, divisor):
    # -0.5 and 0.7 have the whole part 0, which is ignored; a NaN there has no effect.
    scores, targets = [[0, NAN, 0], [0, 0, 0]], [[1, 0.7, 1], [1, -0.5, 2]]
    loss, diff = cross_entropy(
        make_layer, f"ignore_label: 0 {settings}", scores, targets
    )
    np.testing.assert_allclose(loss, 4 * math.log(2) / divisor, rtol=1e-6)
    want = np.array([[-0.5, 0, -0.5], [-0.5, 0, -1.5]]) / divisor
    np.testing.assert_allclose(diff, want, rtol=1e-6)


def test_sigmoidcrossentropyloss_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


def test_sigmoidcrossentropyloss_gradient_matches_differences(
    make_layer, check_gradient
):
    module = make_layer('type: "SigmoidCrossEntropyLoss"', (2, 3), (2, 3))
    check_gradient(module, values(2, 3), whole(2, 2, 3), wrt=(0,))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 3), (3, 2)], "first axes have one length"),
        ([(2, 3), (2,)], "one number of elements"),
    ],
)
def test_sigmoidcrossentropyloss_bad_bottoms_are_refused(make_layer, shapes, message):
    with pytest.raises(LayerError, match=message):
        make_layer('type: "SigmoidCrossEntropyLoss"', *shapes)


def hinge(make_layer, settings: str, scores, labels):
    text = f'type: "HingeLoss" hinge_loss_param {{ {settings} }}'
    return run(make_layer, text, scores, labels)


def test_hingeloss_hand_values(make_layer):
    # Label 0: margins 1 - 0.5, 1 - 2 -> 0, 1 + 1. Label 2: 1 + 0, 1 - 1 = 0, 1 + 3.
    scores, labels = [[0.5, -2, 1], [0, -1, -3]], [0, 2]
    loss, diff = hinge(make_layer, "", scores, labels)
    assert loss == (0.5 + 2 + 1 + 4) / 2
    np.testing.assert_array_equal(diff, [[-0.5, 0, 0.5], [0.5, 0, -0.5]])
    loss, diff = hinge(make_layer, "norm: L2", scores, labels)
    assert loss == (0.25 + 4 + 1 + 16) / 2
    np.testing.assert_array_equal(diff, [[-0.5, 0, 2], [1, 0, -4]])


@pytest.mark.parametrize("norm", ["L1", "L2"])
def test_hingeloss_hand_label_out_of_range_gives_nan(make_layer, norm):
    text = f'type: "HingeLoss" hinge_loss_param {{ norm: {norm} }}'
    call = compile_loss(make_layer, text, (2, 3), (2,))
    for label in (3, -1, NAN):
        loss, diff = call(values(2, 3), [0, label])
        assert np.isnan(loss), label
        assert np.isfinite(diff[0]).all()
        assert np.isnan(diff[1]).all(), label


def test_hingeloss_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize("norm", ["L1", "L2"])
def test_hingeloss_gradient_matches_differences(make_layer, check_gradient, norm):
    # Odd multiples of 0.1 stay that far from the kinks at -1 and 1.
    scores = np.array([[0.3, -1.3, 1.7], [-0.1, 1.3, -0.7]], np.float32)
    text = f'type: "HingeLoss" hinge_loss_param {{ norm: {norm} }}'
    module = make_layer(text, (2, 3), (2,))
    check_gradient(module, scores, np.array([0, 1], np.float32), wrt=(0,))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 3), (3,)], "first axes have one length"),
        ([(2, 3), (2, 3)], r"labels of shape \(2, 3\) do not fit .*2 labels"),
    ],
)
def test_hingeloss_bad_bottoms_are_refused(make_layer, shapes, message):
    with pytest.raises(LayerError, match=message):
        make_layer('type: "HingeLoss"', *shapes)


MULTINOMIAL = 'type: "MultinomialLogisticLoss"'


def test_multinomiallogisticloss_hand_values(make_layer):
    loss, diff = run(make_layer, MULTINOMIAL, [[0.5, 0.25], [0.1, 0.125]], [1, 1])
    np.testing.assert_allclose(loss, math.log(4 * 8) / 2, rtol=1e-6)
    np.testing.assert_allclose(diff, [[0, -2], [0, -4]], rtol=1e-6)


def test_multinomiallogisticloss_hand_probability_0_is_held_at_1e_20(make_layer):
    loss, diff = run(make_layer, MULTINOMIAL, [[0.0, 1]], [0])
    np.testing.assert_allclose(loss, 20 * math.log(10), rtol=1e-6)
    np.testing.assert_allclose(diff, [[-1e20, 0]], rtol=1e-6)


def test_multinomiallogisticloss_hand_label_out_of_range_gives_nan(make_layer):
    call = compile_loss(make_layer, MULTINOMIAL, (2, 3), (2,))
    for label in (3, -1, NAN):
        loss, _ = call(np.full((2, 3), 0.5), [0, label])
        assert np.isnan(loss), label


def test_multinomiallogisticloss_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


def test_multinomiallogisticloss_gradient_matches_differences(
    make_layer, check_gradient
):
    module = make_layer(MULTINOMIAL, (2, 3), (2,))
    probabilities = np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]], np.float32)
    labels = np.array([1, 0], np.float32)
    check_gradient(module, probabilities, labels, wrt=(0,))


def test_multinomiallogisticloss_bad_labels_are_refused(make_layer):
    with pytest.raises(LayerError, match=r"labels of shape \(2, 3\) do not fit"):
        make_layer(MULTINOMIAL, (2, 3), (2, 3))


def contrastive(**settings) -> str:
    fields = " ".join(f"{k}: {str(v).lower()}" for k, v in settings.items())
    return f'type: "ContrastiveLoss" contrastive_loss_param {{ {fields} }}'


# Distances 5 (alike), 0.5 and 5 (not alike).
PAIRS = np.array([[3.0, 4.0], [0.3, 0.4], [3.0, 4.0]]), np.zeros((3, 2)), [1, 0, 0.9]


def test_contrastiveloss_hand_values(make_layer):
    loss, diff = run(make_layer, contrastive(margin=1), *PAIRS)
    np.testing.assert_allclose(loss, (25 + 0.25) / 6, rtol=1e-6)
    pushed = -0.5 * np.array([0.3, 0.4]) / (0.5 + 1e-4)
    np.testing.assert_allclose(diff, np.array([[3, 4], pushed, [0, 0]]) / 3, rtol=1e-5)


def test_contrastiveloss_hand_legacy_margin_is_of_the_square(make_layer):
    text = contrastive(margin=1, legacy_version=True)
    loss, diff = run(make_layer, text, *PAIRS)
    np.testing.assert_allclose(loss, (25 + 0.75) / 6, rtol=1e-6)
    np.testing.assert_allclose(diff[1], [-0.1, -0.4 / 3], rtol=1e-5)


def test_contrastiveloss_hand_equal_features_give_no_nan(make_layer):
    zeros = np.zeros((1, 2))
    loss, diff = run(make_layer, contrastive(), zeros, zeros, [0])
    assert loss == 0.5
    np.testing.assert_array_equal(diff, zeros)


def test_contrastiveloss_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize("legacy_version", [False, True])
def test_contrastiveloss_gradient_matches_differences(
    make_layer, check_gradient, legacy_version
):
    text = contrastive(margin=3, legacy_version=legacy_version)
    a, b = values(4, 2), values(4, 2, seed=1)
    alike = np.array([1, 0, 0, 1], np.float32)
    check_gradient(make_layer(text, (4, 2), (4, 2), (4,)), a, b, alike, wrt=(0, 1))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 3), (3, 3), (2,)], "first axes have one length"),
        ([(2, 3), (2, 4), (2,)], "one number of elements"),
        ([(2, 3, 2), (2, 3, 2), (2,)], "N x C, twice"),
        ([(2, 3), (2, 3), (2, 2)], r"marks of pairs of shape \(2, 2\) do not fit"),
    ],
)
def test_contrastiveloss_bad_bottoms_are_refused(make_layer, shapes, message):
    with pytest.raises(LayerError, match=message):
        make_layer(contrastive(), *shapes)
