"""BatchReindex and Filter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.errors import LayerError


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def reindex(make_layer, *shapes):
    return make_layer('type: "BatchReindex"', *shapes)


def test_batchreindex_hand_takes_items_in_the_order_of_indices(make_layer):
    bottom = jnp.array([[1.0, 2], [3, 4], [5, 6]])
    indices = jnp.array([2, 0, 0, 1.9])
    top = jax.jit(reindex(make_layer, (3, 2), (4,)))(bottom, indices)
    np.testing.assert_array_equal(top, [[5, 6], [1, 2], [1, 2], [3, 4]])


def test_batchreindex_hand_gradient_adds_up_the_uses_of_an_item(make_layer):
    module = reindex(make_layer, (3,), (4,))
    indices = jnp.array([2.0, 0, 0, 2])
    _, pull = jax.vjp(lambda bottom: module(bottom, indices), jnp.zeros(3))
    np.testing.assert_array_equal(pull(jnp.array([1.0, 10, 20, 2]))[0], [30, 0, 3])


@pytest.mark.parametrize("index", [-1, -0.5, 3, 1e10, np.inf, np.nan])
def test_batchreindex_hand_index_out_of_range_makes_its_item_nan(make_layer, index):
    module = reindex(make_layer, (3, 2), (2,))
    bottom, indices = jnp.ones((3, 2)), jnp.array([index, 1.0])
    np.testing.assert_array_equal(module(bottom, indices), [[np.nan] * 2, [1, 1]])
    gradient = jax.grad(lambda bottom: module(bottom, indices).sum())(bottom)
    np.testing.assert_array_equal(gradient, [[0, 0], [1, 1], [0, 0]])


def test_batchreindex_hand_without_indices_takes_nothing(make_layer):
    module = reindex(make_layer, (3, 2), (0,))
    assert module(jnp.ones((3, 2)), jnp.zeros(0)).shape == (0, 2)


def test_batchreindex_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


def test_batchreindex_gradient_matches_differences(make_layer, check_gradient):
    module = reindex(make_layer, (3, 2, 2), (5,))
    indices = np.array([0, 2, 2, 0, 2], np.float32)
    check_gradient(module, values(3, 2, 2), indices, wrt=(0,))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(3, 2), (4, 1)], r"indices have shape \(4, 1\)\. Accepted: one axis"),
        ([(3, 2), ()], r"indices have shape \(\)"),
        ([(), (4,)], r"bottom 0 has shape \(\)"),
    ],
)
def test_batchreindex_bad_bottoms_are_refused(make_layer, shapes, message):
    with pytest.raises(LayerError, match=message):
        reindex(make_layer, *shapes)


def filter_(make_layer, *shapes, tops=None):
    tops = len(shapes) - 1 if tops is None else tops
    named = " ".join(f'top: "t{i}"' for i in range(tops))
    return make_layer(f'type: "Filter" {named}', *shapes)


ITEMS = jnp.array([[1.0, 2], [3, 4], [5, 6], [7, 8]])
LABELS = jnp.array([1.0, 2, 3, 4])
SELECTOR = jnp.array([0, -0.5, 0, 2.0])


def test_filter_hand_on_plain_arrays_gives_the_selected_items(make_layer):
    module = filter_(make_layer, (4, 2), (4,), (4,))
    items, labels = module(ITEMS, LABELS, SELECTOR)
    np.testing.assert_array_equal(items, [[3, 4], [7, 8]])
    np.testing.assert_array_equal(labels, [2, 4])


def test_filter_hand_compiled_puts_padding_behind_the_selected_items(make_layer):
    module = filter_(make_layer, (4, 2), (4,), (4, 1, 1), (4, 1))
    bottoms = ITEMS, LABELS, LABELS.reshape(4, 1, 1), SELECTOR.reshape(4, 1)
    items, labels, others = jax.jit(module)(*bottoms)
    np.testing.assert_array_equal(items, [[3, 4], [7, 8], [0, 0], [0, 0]])
    np.testing.assert_array_equal(labels, [2, 4, -1, -1])
    np.testing.assert_array_equal(others, [[[2]], [[4]], [[-1]], [[-1]]])


def test_filter_hand_keeps_what_is_not_finite_out_of_padding(make_layer):
    module = filter_(make_layer, (2, 2), (2,))
    items = jnp.array([[np.nan, np.inf], [1, 2]])
    (top,) = jax.jit(module)(items, jnp.array([0.0, 1]))
    np.testing.assert_array_equal(top, [[1, 2], [0, 0]])


@pytest.mark.parametrize("selector", [jnp.zeros(4), jnp.ones(4)])
def test_filter_hand_selects_none_or_all(make_layer, selector):
    module = filter_(make_layer, (4, 2), (4,))
    (top,) = module(ITEMS, selector)
    np.testing.assert_array_equal(top, ITEMS[: 4 * int(selector[0])])
    (padded,) = jax.jit(module)(ITEMS, selector)
    np.testing.assert_array_equal(padded, ITEMS * selector[0])


def test_filter_hand_gradient_goes_to_the_selected_items(make_layer):
    module = filter_(make_layer, (4, 2), (4,))
    # The selector has a gradient's tracer too, and still decides the shape.
    tops, pull = jax.vjp(module, ITEMS, SELECTOR)
    assert tops[0].shape == (2, 2)
    items, selector = pull((jnp.array([[1.0, 2], [3, 4]]),))
    np.testing.assert_array_equal(items, [[0, 0], [1, 2], [0, 0], [3, 4]])
    np.testing.assert_array_equal(selector, np.zeros(4))


def test_filter_hand_gradient_of_padding_is_dropped(make_layer):
    module = filter_(make_layer, (4, 2), (4,))

    @jax.jit
    def gradient(items, selector):
        _, pull = jax.vjp(module, items, selector)
        return pull((jnp.array([[1.0, 2], [3, 4], [5, 6], [7, 8]]),))

    items, selector = gradient(ITEMS, SELECTOR)
    np.testing.assert_array_equal(items, [[0, 0], [1, 2], [0, 0], [3, 4]])
    np.testing.assert_array_equal(selector, np.zeros(4))


def test_filter_hand_gradient_with_nothing_selected_is_0(make_layer):
    module = filter_(make_layer, (4, 2), (4,))
    gradient = jax.grad(lambda items: module(items, jnp.zeros(4))[0].sum())(ITEMS)
    np.testing.assert_array_equal(gradient, np.zeros((4, 2)))


def test_filter_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case, jit=False)


def test_filter_gradient_matches_differences(make_layer, check_gradient):
    module = filter_(make_layer, (4, 2, 3), (4,), (4,))
    check_gradient(module, values(4, 2, 3), values(4), SELECTOR, wrt=(0, 1))


@pytest.mark.parametrize(
    ("shapes", "tops", "message"),
    [
        ([(4, 2), (4,), (4,)], 1, r"top is given 1 times\. Accepted: 2: one per"),
        ([(4, 2), (4,)], 2, "top is given 2 times"),
        ([(4, 2), (4, 2)], 1, r"the selector, .*shape \(4, 2\)\. Accepted: one value"),
        ([(4, 2), ()], 1, r"the selector, .*has shape \(\)"),
        (
            [(4, 2), (3, 2), (4,)],
            2,
            r"bottom 1 has shape \(3, 2\), the selector \(4,\)",
        ),
        ([(), (4,)], 1, r"bottom 0 has shape \(\)"),
    ],
)
def test_filter_bad_bottoms_are_refused(make_layer, shapes, tops, message):
    with pytest.raises(LayerError, match=message):
        filter_(make_layer, *shapes, tops=tops)
