"""Dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.errors import LayerError
from jaxcaffe.proto import caffe_pb2


def random_key(seed: int) -> jax.Array:
    # Compiles far sooner than the default generator, and dropout takes any key.
    return jax.random.key(seed, impl="rbg")


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
    check_gradient(
        module,
        np.random.default_rng(0).uniform(0.1, 2, (2, 3, 4)).astype("f"),
        key=random_key(3),
    )


@pytest.mark.parametrize("ratio", [-0.1, 1, 1.5, "nan"])
def test_dropout_bad_ratio_is_refused(make_layer, ratio):
    message = rf"dropout_ratio is {ratio}\. Accepted: 0 up to, not including, 1"
    with pytest.raises(LayerError, match=message):
        make_layer(dropout_text(ratio), (2,))
