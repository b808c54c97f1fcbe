import jax
import jax.numpy as jnp
import numpy as np

from jaxcaffe.ops.materialize import materialize
from jaxcaffe.ops.plain import plain


def _blocks(x, addends):
    """A chain of residual sums, whose gradients look at each of them."""
    for addend in addends:
        x = jax.nn.relu(materialize(x + addend * x[0]))
    return (x**2).sum()


def test_materialize_changes_no_value_nor_derivative():
    x = jnp.linspace(-1, 2, 12).reshape(3, 4)
    np.testing.assert_array_equal(materialize(x), x)
    with plain():
        _, slope = jax.jvp(lambda x: materialize(x) ** 2, (x,), (jnp.ones_like(x),))
    np.testing.assert_allclose(slope, 2 * x)
    np.testing.assert_allclose(
        jax.grad(lambda x: (materialize(x) ** 2).sum())(x), 2 * x
    )


def test_materialize_is_heeded_by_the_compiler_on_cpus():
    arrays = jnp.ones((6, 64)), jnp.ones((5, 6, 64))
    text = jax.jit(jax.grad(_blocks)).lower(*arrays).compile().as_text()
    assert text.count(" opt-barrier(") == 5
    forward = jax.jit(_blocks).lower(*arrays).compile().as_text()
    assert " opt-barrier(" not in forward


def test_materialize_is_nothing_to_gpus_and_tpus():
    traced = jax.jit(jax.grad(_blocks)).trace(jnp.ones((6, 64)), jnp.ones((5, 6, 64)))
    for platform, count in (("cpu", 5), ("cuda", 0), ("tpu", 0)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("optimization_barrier") == count
