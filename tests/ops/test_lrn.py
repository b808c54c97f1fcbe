import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.ops.lrn import inverse_power, lrn_across, lrn_across_plain


@pytest.mark.parametrize(
    ("channels", "settings"),
    [
        (7, (5, 1e-1, 0.75, 1.0)),
        (7, (3, 2.0, 0.5, 2.0)),
        (7, (3, 0.3, 1.2, 1.0)),
        (2, (5, 1.0, 0.75, 1.0)),  # fewer channels than neighbours
    ],
)
def test_lrn_across_equals_plain_with_its_gradient(channels, settings):
    draw = np.random.RandomState(0)
    bottom = jnp.asarray(draw.randn(2, channels, 3, 4), jnp.float32)
    top_diff = jnp.asarray(draw.randn(*bottom.shape), jnp.float32)

    def run(form):
        @jax.jit
        def both(bottom):
            top, pull = jax.vjp(lambda x: form(x, *settings), bottom)
            return top, pull(top_diff)[0]

        return both(bottom)

    for a, b in zip(run(lrn_across), run(lrn_across_plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("beta", [0.75, 0.5, 0.6, 1.0, 0.0])
def test_inverse_power_is_the_power(beta):
    x = np.geomspace(1e-6, 1e6, 50, dtype=np.float32)
    want = x.astype(np.float64) ** -beta
    np.testing.assert_allclose(inverse_power(jnp.asarray(x), beta), want, rtol=1e-5)
