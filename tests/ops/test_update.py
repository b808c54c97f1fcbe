import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.ops.update import settle, update_if
from jaxcaffe.solver.rules import adagrad, adam, rmsprop, sgd


def _make_step(rule, keep=True):
    """Returns step(old, g, loss) -> ((w, history), u or None): one guarded update."""

    def update(old, g):
        w, history = old
        u, history = rule.update(
            g + 0.5 * w, history, jnp.float32(0.1), jnp.zeros((), jnp.int32)
        )
        return (w - u, history), u if keep else None

    return lambda old, g, loss: update_if(jnp.isfinite(loss), update, old, g)


def test_update_if_not_good_leaves_the_old():
    step = jax.jit(_make_step(sgd(0.9)))
    old = jnp.ones(3), jnp.full(3, 2.0)
    (w, h), u = step(old, jnp.full(3, jnp.nan), jnp.float32(jnp.nan))
    np.testing.assert_array_equal(w, 1)
    np.testing.assert_array_equal(h, 2)
    assert u.shape == (3,)


def test_update_if_good_gives_the_new():
    step = jax.jit(_make_step(sgd(0.9)))
    (w, h), u = step((jnp.ones(3), jnp.full(3, 2.0)), jnp.ones(3), jnp.float32(1))
    np.testing.assert_allclose(h, 1.95, rtol=1e-6)
    np.testing.assert_allclose(u, 1.95, rtol=1e-6)
    np.testing.assert_allclose(w, -0.95, rtol=1e-6)


@pytest.mark.parametrize(
    "rule", [sgd(0.9), adagrad(1e-8), rmsprop(0.9, 1e-8), adam(0.9, 0.999, 1e-8)]
)
def test_update_in_place_copies_nothing_on_the_cpu(rule):
    w = jnp.ones((96, 80))
    traced = jax.jit(_make_step(rule, keep=False), donate_argnums=0).trace(
        (w, rule.init(w)), w, jnp.float32(1)
    )
    compiled = traced.lower(lowering_platforms=("cpu",)).compile()
    copies = [
        line
        for line in compiled.as_text().splitlines()
        if "f32[96,80]" in line and "copy(" in line
    ]
    assert not copies


def test_update_elsewhere_has_neither_branch_nor_barrier():
    w = jnp.ones((4, 4))
    traced = jax.jit(_make_step(sgd(0.9))).trace((w, w), w, jnp.float32(1))
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo.select" in text
        assert "optimization_barrier" not in text
    assert "optimization_barrier" in traced.lower().as_text()


def test_settle_is_the_identity():
    tree = {"a": jnp.arange(3.0), "b": (jnp.ones(2),)}
    jax.tree.map(np.testing.assert_array_equal, jax.jit(settle)(tree), tree)
