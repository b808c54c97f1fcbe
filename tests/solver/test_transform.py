import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcaffe.solver.rules import Rule, adagrad, sgd
from jaxcaffe.solver.transform import (
    HistoryState,
    add_l1_decay,
    add_l2_decay,
    apply_rule,
    clip_by_sum_norm,
    count_updates,
    divide_by_iter_size,
    forget_frozen,
)

RTOL = 1e-6  # a few float32 roundings in another order than numpy's

TREE = {"conv": {"weight": jnp.array([[3.0, 0.0]])}, "ip": {"bias": jnp.array([-4.0])}}


def run(tx: optax.GradientTransformation, grads, params=None):
    return tx.update(grads, tx.init(params if params is not None else grads), params)[0]


def assert_tree_close(actual, expected) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=RTOL)


def test_clip_by_sum_norm_above_scales_all_to_the_limit():
    clipped = run(clip_by_sum_norm(2.5), TREE)  # the norm of TREE is 5
    assert_tree_close(clipped, jax.tree.map(lambda g: g * 0.5, TREE))


def test_clip_by_sum_norm_at_the_limit_changes_nothing():
    clipped = run(clip_by_sum_norm(5), TREE)
    jax.tree.map(np.testing.assert_array_equal, clipped, TREE)


def test_clip_by_sum_norm_zero_lets_nothing_pass():
    assert_tree_close(
        run(clip_by_sum_norm(0), TREE), jax.tree.map(jnp.zeros_like, TREE)
    )


def test_clip_by_sum_norm_zero_gradient_stays_zero():
    zeros = jax.tree.map(jnp.zeros_like, TREE)
    assert_tree_close(run(clip_by_sum_norm(0.5), zeros), zeros)


def test_clip_by_sum_norm_negative_is_off():
    huge = jax.tree.map(lambda g: g * 1e30, TREE)
    jax.tree.map(np.testing.assert_array_equal, run(clip_by_sum_norm(-1), huge), huge)


def test_clip_by_sum_norm_of_a_large_blob_counts_every_element():
    # A float32 running sum would stop growing at 2^24 ones.
    grads = [jnp.ones(1 << 25)]
    clipped = run(clip_by_sum_norm(1.0), grads)
    np.testing.assert_allclose(clipped[0][0], (1 << 25) ** -0.5, rtol=1e-5)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    values=st.lists(
        st.floats(-1, 1, width=32, allow_subnormal=False), min_size=3, max_size=3
    ),
    scale=st.sampled_from([0.0, 0.25, 1.0]),
)
def test_clip_by_sum_norm_below_the_limit_changes_nothing(values, scale):
    grads = [jnp.array(values[:2]) * scale, jnp.array(values[2:]) * scale]
    clipped = run(clip_by_sum_norm(1.75), grads)  # sqrt(3) < 1.75
    jax.tree.map(np.testing.assert_array_equal, clipped, grads)


def test_divide_by_iter_size_gives_the_mean():
    divided = run(divide_by_iter_size(4), TREE)
    assert_tree_close(divided, jax.tree.map(lambda g: g / 4, TREE))


def test_divide_by_iter_size_one_changes_nothing():
    assert run(divide_by_iter_size(1), TREE) is TREE


def test_add_l2_decay_adds_the_scaled_weight():
    params = {"w": jnp.array([2.0, -1.0, 0.0]), "b": jnp.array([3.0])}
    grads = {"w": jnp.array([1.0, 1.0, 1.0]), "b": jnp.array([1.0])}
    decayed = run(add_l2_decay(0.1, {"w": 2.0, "b": 0.5}), grads, params)
    expected = {"w": np.array([1.4, 0.8, 1.0]), "b": np.array([1.15])}
    assert_tree_close(decayed, expected)


def test_add_l1_decay_adds_the_sign_and_nothing_at_zero():
    params = {"w": jnp.array([2.0, -1.0, 0.0]), "b": jnp.array([3.0])}
    grads = {"w": jnp.array([1.0, 1.0, 1.0]), "b": jnp.array([1.0])}
    decayed = run(add_l1_decay(0.1, {"w": 2.0, "b": 0.5}), grads, params)
    expected = {"w": np.array([1.2, 0.8, 1.0]), "b": np.array([1.05])}
    assert_tree_close(decayed, expected)


def test_add_l2_decay_with_decay_mult_zero_does_not_look_at_the_weight():
    decayed = run(add_l2_decay(0.1, [0.0]), [jnp.ones(2)], [jnp.full(2, jnp.inf)])
    assert decayed[0].tolist() == [1, 1]


def test_apply_rule_sgd_keeps_the_rate_inside_the_history():
    # The rate falls from 1 to 0.1 at the third update: what the history gathered
    # before keeps its size, unlike in optax.sgd.
    tx = apply_rule(sgd(0.5), lambda i: jnp.where(i < 2, 1.0, 0.1), [1.0])
    state = tx.init([jnp.zeros(1)])
    updates = []
    for _ in range(4):
        (update,), state = tx.update([jnp.ones(1)], state)
        updates.append(float(update[0]))
    np.testing.assert_allclose(updates, [-1, -1.5, -0.85, -0.525], rtol=RTOL)
    np.testing.assert_allclose(state.history[0], [0.525], rtol=RTOL)
    assert (int(state.count), state.count.dtype) == (4, jnp.int32)


def test_apply_rule_gives_each_parameter_its_own_rate():
    tx = apply_rule(sgd(0.0), optax.constant_schedule(0.5), {"w": 1.0, "b": 2.0})
    grads = {"w": jnp.ones(2), "b": jnp.ones(1)}
    updates, _ = tx.update(grads, tx.init(grads))
    assert_tree_close(updates, {"w": np.full(2, -0.5), "b": np.full(1, -1.0)})


def test_apply_rule_takes_a_rule_with_two_histories():
    def update(g, h, r, count):
        first, second = h
        return r * g, (first + g, second + count.astype(jnp.float32))

    rule = Rule(init=lambda w: (jnp.zeros_like(w), jnp.ones_like(w)), update=update)
    tx = apply_rule(rule, optax.constant_schedule(0.5), {"w": 1.0})
    state = tx.init({"w": jnp.zeros(2)})
    assert isinstance(state, HistoryState)
    for _ in range(3):
        updates, state = tx.update({"w": jnp.ones(2)}, state)
    assert_tree_close(updates, {"w": np.full(2, -0.5)})
    assert_tree_close(state.history, {"w": (np.full(2, 3.0), np.full(2, 4.0))})


def test_forget_frozen_zeroes_the_gradient_whatever_it_is():
    tx = forget_frozen({"a": 1.0, "b": 0.0, "c": 0.0})
    params = {name: jnp.ones(2) for name in "abc"}
    grads = {"a": jnp.array([3.0, 4.0]), "b": None, "c": jnp.full(2, jnp.nan)}
    out, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_array_equal(out["a"], [3, 4])
    np.testing.assert_array_equal(out["b"], [0, 0])
    np.testing.assert_array_equal(out["c"], [0, 0])


def test_apply_rule_frozen_parameter_stays_where_the_rule_gives_nan():
    # 0 / (sqrt(0) + 0), of a parameter that never has a gradient.
    tx = apply_rule(adagrad(0.0), optax.constant_schedule(0.1), [0.0])
    update, state = tx.update([jnp.zeros(2)], tx.init([jnp.ones(2)]))
    np.testing.assert_array_equal(update[0], [0, 0])
    np.testing.assert_array_equal(state.history[0], [0, 0])


def test_count_updates_hands_through_and_counts():
    tx = count_updates(optax.trace(0.5))
    params = [jnp.zeros(1)]
    state = tx.init(params)
    for i, wanted in enumerate([1.0, 1.5, 1.75], 1):
        (update,), state = tx.update([jnp.ones(1)], state, params)
        assert float(update[0]) == wanted
        assert int(state.count) == i
