"""Accuracy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.errors import LayerError

NAN = np.nan


def compile_accuracy(make_layer, settings: str, *shapes, tops: int = 1):
    named = " ".join(f'top: "t{i}"' for i in range(tops))
    text = f'type: "Accuracy" {named} accuracy_param {{ {settings} }}'
    module = make_layer(text, *shapes)
    compiled = jax.jit(lambda *bottoms: module(*bottoms))
    return lambda *bottoms: compiled(*(jnp.asarray(b, jnp.float32) for b in bottoms))


def accuracy(make_layer, settings: str, scores, labels, tops: int = 1):
    shapes = np.shape(scores), np.shape(labels)
    return compile_accuracy(make_layer, settings, *shapes, tops=tops)(scores, labels)


def test_accuracy_hand_counts_best_scores(make_layer):
    scores = [[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]
    labels = [1, 0, 0, 1]
    assert accuracy(make_layer, "", scores, labels) == 0.5
    assert accuracy(make_layer, "top_k: 2", scores, labels) == 0.75
    assert accuracy(make_layer, "top_k: 3", scores, labels) == 1


def test_accuracy_hand_ties_count_against_the_label(make_layer):
    scores = [[1, 1, 0]]
    assert accuracy(make_layer, "", scores, [0]) == 0
    assert accuracy(make_layer, "", scores, [1]) == 0
    assert accuracy(make_layer, "top_k: 2", scores, [1]) == 1


def test_accuracy_hand_axis_and_label_shapes(make_layer):
    scores = np.zeros((2, 3, 2, 2), np.float32)
    labels = np.arange(8).reshape(2, 2, 2) % 3
    for n, h, w in itertools.product(range(2), repeat=3):
        scores[n, labels[n, h, w], h, w] = 1
    labels[1, 1, 1] = (labels[1, 1, 1] + 1) % 3
    for shape in [(2, 2, 2), (8,)]:
        assert accuracy(make_layer, "", scores, labels.reshape(shape)) == 0.875
    moved = np.moveaxis(scores, 1, -1)
    assert accuracy(make_layer, "axis: -1", moved, labels) == 0.875


def test_accuracy_hand_ignored_labels_are_left_out(make_layer):
    scores, labels = [[0, 1], [0, 1], [1, 0]], [1, 255, 1]
    assert accuracy(make_layer, "ignore_label: 255", scores, labels) == 0.5
    assert accuracy(make_layer, "ignore_label: 255", scores, [255] * 3) == 0


def test_accuracy_hand_second_top_is_per_class(make_layer):
    scores = [[9, 0, 0, 0], [0, 9, 0, 0], [0, 0, 9, 0], [0, 9, 0, 0], [0, 0, 0, 9]]
    total, per_class = accuracy(
        make_layer, "ignore_label: -1", scores, [0, 1, 1, 1, -1], tops=2
    )
    assert total == 0.75
    np.testing.assert_allclose(per_class, [1, 2 / 3, 0, 0], rtol=1e-6)


def test_accuracy_hand_nan_never_counts_as_correct(make_layer):
    assert accuracy(make_layer, "", [[NAN] * 3], [0]) == 0
    assert accuracy(make_layer, "top_k: 3", [[NAN] * 3], [0]) == 0
    assert accuracy(make_layer, "", [[NAN, 1, 0]], [0]) == 0
    assert accuracy(make_layer, "", [[NAN, 1, 0]], [1]) == 0
    assert accuracy(make_layer, "top_k: 2", [[NAN, 1, 0]], [1]) == 1


def test_accuracy_hand_label_out_of_range_gives_nan(make_layer):
    call = compile_accuracy(make_layer, "", (2, 3), (2,))
    for label in (3, 255, -1, NAN):
        assert np.isnan(call([[0, 1, 2]] * 2, [2, label])), label


def test_accuracy_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize(
    ("settings", "shapes", "message"),
    [
        ("top_k: 4", [(2, 3), (2,)], r"top_k is 4 for 3 classes\. Accepted: 1 to 3"),
        ("top_k: 0", [(2, 3), (2,)], "top_k is 0"),
        ("axis: 2", [(2, 3), (2,)], r"axis is 2 .*Accepted: -2 to 1"),
        ("", [(2, 3, 4, 4), (2,)], r"labels of shape \(2,\) do not fit .*32 labels"),
        ("", [(), ()], "a bottom with axes"),
    ],
)
def test_accuracy_bad_settings_are_refused(make_layer, settings, shapes, message):
    with pytest.raises(LayerError, match=message):
        make_layer(f'type: "Accuracy" accuracy_param {{ {settings} }}', *shapes)
