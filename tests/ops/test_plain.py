import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.ops.plain import keep_arguments, plain


@jax.custom_jvp
def weigh(x, weights):
    return jnp.sum(weights * jnp.tanh(x))


@weigh.defjvp
def weigh_jvp(primals, tangents):
    x, weights = primals
    return weigh(x, weights), jnp.sum(weights / jnp.cosh(x) ** 2 * tangents[0])


X, WEIGHTS = jnp.linspace(-2, 2, 7), jnp.arange(7.0)


def kept_arrays(form):
    _, pull = jax.vjp(lambda x: form(x, WEIGHTS), X)
    return [leaf for leaf in jax.tree.leaves(pull) if leaf.shape == X.shape]


def test_keep_arguments_keeps_nothing_else_for_the_gradient():
    ours = kept_arrays(keep_arguments(weigh))
    for array in ours:
        assert any(np.array_equal(array, given) for given in (X, WEIGHTS))
    assert ours
    assert not any(np.array_equal(array, X) for array in kept_arrays(weigh))


def test_keep_arguments_changes_no_derivative():
    form = keep_arguments(weigh)
    np.testing.assert_allclose(
        jax.grad(form)(X, WEIGHTS), jax.grad(weigh)(X, WEIGHTS), rtol=1e-6
    )
    second = [
        jax.grad(lambda x, f=f: jnp.sum(jax.grad(f)(x, WEIGHTS) ** 2))(X)
        for f in (form, weigh)
    ]
    np.testing.assert_allclose(*second, rtol=1e-5, atol=1e-6)


def test_keep_arguments_inside_plain_has_both_modes():
    form = keep_arguments(weigh)
    change = jnp.ones_like(X)
    with plain():
        _, slope = jax.jvp(lambda x: form(x, WEIGHTS), (X,), (change,))
    np.testing.assert_allclose(slope, jax.grad(form)(X, WEIGHTS).sum(), rtol=1e-6)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: form(x, WEIGHTS), (X,), (change,))
