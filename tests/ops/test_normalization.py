import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.ops.normalization import batch_normalize, batch_normalize_plain

# The forms sum in different orders, in float32.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
EPS = 1e-5
SHAPES = {
    "images": (4, 3, 5, 6),
    "no spatial axis": (8, 3),
    "three axes": (2, 3, 2, 4, 3),
}


def _operands(shape, mean=0.5):
    draw = np.random.RandomState(0)
    bottom = draw.randn(*shape).astype(np.float32) + np.float32(mean)
    scale, bias = draw.randn(2, shape[1]).astype(np.float32)
    return jnp.asarray(bottom), jnp.asarray(scale), jnp.asarray(bias)


def _run(form, operands):
    @jax.jit
    def both(*operands):
        tops, pull = jax.vjp(lambda *o: form(*o, EPS), *operands)
        diff = jnp.cos(jnp.arange(tops[0].size)).reshape(tops[0].shape)
        return tops, pull((diff, *map(jnp.zeros_like, tops[1:])))

    return both(*operands)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_batch_normalize_equals_plain_with_its_gradients(shape):
    operands = _operands(shape)
    fast = _run(batch_normalize, operands)
    plain = _run(batch_normalize_plain, operands)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), fast, plain
    )


def test_batch_normalize_of_a_mean_far_off_keeps_the_variance():
    bottom, scale, bias = _operands((16, 3, 8, 8), mean=1000)
    _, _, mean, variance = batch_normalize(bottom, scale, bias, EPS)
    exact = np.asarray(bottom, np.float64)
    np.testing.assert_allclose(mean, exact.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(variance, exact.var(axis=(0, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_batch_normalize_lowers_to_plain_operations(platform):
    traced = jax.jit(lambda *o: _run(batch_normalize, o)).trace(
        *_operands((2, 3, 4, 4))
    )
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "custom_call" not in text
    assert "optimization_barrier" not in text


def test_batch_normalize_on_a_split_batch_equals_one_device(run_on_devices):
    run_on_devices(
        """
        from jaxcaffe.ops.normalization import batch_normalize

        bottom = jnp.asarray(draw.randn(16, 4, 6, 6), jnp.float32)
        factors = jnp.asarray(draw.randn(2, 4), jnp.float32)
        loss = lambda x, f: (batch_normalize(x, f[0], f[1], 1e-5)[0] ** 3).sum()
        check(jax.grad(loss, (0, 1)), (bottom, factors), 1)
        """
    )
