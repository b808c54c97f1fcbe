import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcaffe.solver.rules import adadelta, adagrad, adam, nesterov, rmsprop, sgd

GRADS = np.random.default_rng(7).normal(size=(12, 3)).astype(np.float32)
RATES = np.linspace(0.5, 0.1, 12).astype(np.float32)
RTOL = 2e-6


def run(rule, grads=GRADS, rates=RATES):
    """Returns what w loses at each update, and the last history."""
    history = rule.init(jnp.zeros(grads.shape[1:]))
    update = jax.jit(rule.update)
    lost = []
    for count, (g, r) in enumerate(zip(grads, rates, strict=True)):
        step, history = update(jnp.array(g), history, jnp.array(r), jnp.array(count))
        lost.append(np.asarray(step))
    return np.stack(lost), jax.tree.map(np.asarray, history)


def test_sgd_follows_its_recurrence():
    h, expected = np.zeros(3), []
    for g, r in zip(GRADS.astype(float), RATES.astype(float), strict=True):
        h = 0.9 * h + r * g
        expected.append(h)
    lost, history = run(sgd(0.9))
    np.testing.assert_allclose(lost, expected, rtol=RTOL, atol=1e-6)
    np.testing.assert_allclose(history, h, rtol=RTOL, atol=1e-6)


def test_nesterov_follows_its_recurrence():
    h, expected = np.zeros(3), []
    for g, r in zip(GRADS.astype(float), RATES.astype(float), strict=True):
        before = h
        h = 0.9 * before + r * g
        expected.append(1.9 * h - 0.9 * before)
    lost, history = run(nesterov(0.9))
    np.testing.assert_allclose(lost, expected, rtol=RTOL, atol=2e-6)
    np.testing.assert_allclose(history, h, rtol=RTOL, atol=2e-6)


def test_adagrad_follows_its_recurrence():
    h, expected = np.zeros(3), []
    for g, r in zip(GRADS.astype(float), RATES.astype(float), strict=True):
        h = h + g * g
        expected.append(r * g / (np.sqrt(h) + 1e-3))
    lost, history = run(adagrad(1e-3))
    np.testing.assert_allclose(lost, expected, rtol=RTOL)
    np.testing.assert_allclose(history, h, rtol=RTOL)


def test_rmsprop_follows_its_recurrence():
    h, expected = np.zeros(3), []
    for g, r in zip(GRADS.astype(float), RATES.astype(float), strict=True):
        h = 0.02 * g * g + 0.98 * h
        expected.append(r * g / (np.sqrt(h) + 1e-3))
    lost, history = run(rmsprop(0.98, 1e-3))
    np.testing.assert_allclose(lost, expected, rtol=RTOL)
    np.testing.assert_allclose(history, h, rtol=RTOL)


def test_adadelta_follows_its_recurrence():
    h, k, expected = np.zeros(3), np.zeros(3), []
    for g, r in zip(GRADS.astype(float), RATES.astype(float), strict=True):
        h = 0.05 * g * g + 0.95 * h
        u = g * np.sqrt((k + 1e-6) / (h + 1e-6))
        k = 0.05 * u * u + 0.95 * k
        expected.append(r * u)
    lost, history = run(adadelta(0.95, 1e-6))
    np.testing.assert_allclose(lost, expected, rtol=1e-5)
    np.testing.assert_allclose(history, (h, k), rtol=1e-5)


@pytest.mark.parametrize(("b1", "b2"), [(0.9, 0.999), (0.0, 0.99), (0.5, 0.0)])
def test_adam_follows_its_recurrence(b1, b2):
    m, v, expected = np.zeros(3), np.zeros(3), []
    for t, (g, r) in enumerate(zip(GRADS.astype(float), RATES, strict=True), 1):
        m = (1 - b1) * g + b1 * m
        v = (1 - b2) * g * g + b2 * v
        correction = np.sqrt(1 - b2**t) / (1 - b1**t)
        expected.append(float(r) * correction * m / (np.sqrt(v) + 1e-8))
    lost, history = run(adam(b1, b2, 1e-8))
    # 1 - 0.999 has five digits less than 0.999, in Caffe as here.
    np.testing.assert_allclose(lost, expected, rtol=3e-5)
    np.testing.assert_allclose(history, (m, v), rtol=3e-5, atol=1e-7)


def test_adam_correction_is_worked_out_beyond_float32():
    # Caffe computes it in double: with a constant gradient the first step is r.
    lost, _ = run(adam(0.9, 0.999, 1e-8), np.ones((1, 3), np.float32), RATES[:1])
    np.testing.assert_allclose(lost[0], RATES[0], rtol=5e-7)


@pytest.mark.parametrize("rule", [adadelta(0.9, 1e-6), adam(0.9, 0.999, 1e-8)])
def test_two_histories_start_at_zero(rule):
    first, second = rule.init(jnp.ones((2, 3)))
    assert not first.any()
    assert not second.any()
    assert (first.shape, second.shape) == ((2, 3), (2, 3))


@settings(deadline=None, max_examples=20)
@given(scale=st.floats(1e-3, 1e3))
def test_adagrad_without_delta_does_not_see_the_scale_of_gradients(scale):
    scaled, _ = run(adagrad(0.0), GRADS * np.float32(scale))
    plain, _ = run(adagrad(0.0))
    np.testing.assert_allclose(scaled, plain, rtol=1e-5)


@settings(deadline=None, max_examples=20)
@given(value=st.floats(0.01, 100), momentum=st.floats(0, 0.9))
def test_nesterov_and_sgd_agree_in_the_long_run(value, momentum):
    # Under a constant gradient both reach the speed r * g / (1 - m).
    grads = np.full((250, 1), value, np.float32)
    rates = np.full(250, 0.1, np.float32)
    fast, _ = run(nesterov(momentum), grads, rates)
    slow, _ = run(sgd(momentum), grads, rates)
    np.testing.assert_allclose(fast[-1], slow[-1], rtol=1e-4)
