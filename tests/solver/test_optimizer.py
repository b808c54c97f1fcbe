import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcaffe.errors import ConfigError
from jaxcaffe.solver.build import build_tx
from jaxcaffe.solver.optimizer import open_optimizer, optimizer_name

LR_MULTS = {"conv": {"weight": 1.0, "bias": 2.0}, "frozen": {"weight": 0.0}}
PARAMS = {
    "conv": {"weight": jnp.array([1.0, -2.0, 3.0]), "bias": jnp.array([0.5])},
    "frozen": {"weight": jnp.array([7.0])},
}


def schedule(count):
    return 0.1 * 0.5 ** (count // 2)


def open_(optimizer):
    return open_optimizer(optimizer, schedule, LR_MULTS, PARAMS)


@pytest.mark.parametrize(
    "name",
    [
        *("optax.sgd", "optax.adam", "optax.adamw", "optax.lion", "optax.lamb"),
        *("optax.lars", "optax.adafactor", "optax.rmsprop", "optax.adabelief"),
        *("optax.novograd", "optax.yogi", "optax.nadam", "optax.contrib.muon"),
    ],
)
def test_open_optimizer_takes_those_of_optax(name):
    tx = open_(name)
    state = tx.init(PARAMS)
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    updates, _ = jax.jit(tx.update)(grads, state, PARAMS)
    assert np.all(np.asarray(updates["conv"]["weight"]) != 0)
    assert not np.any(updates["frozen"]["weight"])


@pytest.mark.parametrize(
    "optimizer",
    [
        "optax.sgd",
        optax.sgd,
        functools.partial(optax.sgd, momentum=0.0),
        lambda rate: optax.chain(optax.identity(), optax.scale_by_learning_rate(rate)),
    ],
)
def test_open_optimizer_follows_schedule_and_lr_mults(optimizer):
    tx = open_(optimizer)
    state = tx.init(PARAMS)
    grads = jax.tree.map(lambda w: jnp.full_like(w, 3.0), PARAMS)
    for rate in (0.1, 0.1, 0.05, 0.05, 0.025):
        updates, state = tx.update(grads, state, PARAMS)
        np.testing.assert_allclose(updates["conv"]["weight"], -3 * rate, rtol=1e-6)
        np.testing.assert_allclose(updates["conv"]["bias"], -6 * rate, rtol=1e-6)


def test_open_optimizer_remembers_nothing_of_frozen_parameters():
    leaves = jax.tree.leaves(open_("optax.adam").init(PARAMS))
    sizes = sorted(leaf.size for leaf in leaves if leaf.ndim)
    assert sizes == [1, 1, 3, 3]  # conv's two histories for each of two blobs


def test_build_tx_gives_an_optimizer_clipped_divided_decayed_gradients(parse):
    solver = parse(
        'base_lr: 1 lr_policy: "fixed" clip_gradients: 1 iter_size: 4 weight_decay: 0.5'
    )
    mults, params = [1.0, 0.0], [jnp.array([2.0, 0.0]), jnp.array([9.0])]
    optimizer = open_optimizer("optax.sgd", lambda count: 1.0, mults, params)
    tx = build_tx(solver, mults, [1.0, 1.0], "", optimizer)
    state = tx.init(params)
    grads = [jnp.array([3.0, 4.0]), jnp.array([1e9])]
    updates, state = tx.update(grads, state, params)
    # (3, 4) is cut to (0.6, 0.8), a quarter is (0.15, 0.2), the decay adds (1, 0).
    np.testing.assert_allclose(updates[0], [-1.15, -0.2], rtol=2e-6)
    np.testing.assert_array_equal(updates[1], [0.0])
    assert int(state.count) == 1


def test_optimizer_name_is_that_of_the_function():
    assert optimizer_name("optax.lion") == "lion"
    assert optimizer_name(optax.lion) == "lion"
    assert optimizer_name(functools.partial(optax.lion, b1=0.8)) == "lion"


def without_schedule():
    return optax.identity()


def needs_values(rate):
    return optax.polyak_sgd(scaling=0.1)


def changes_shape(rate):
    return optax.stateless(lambda grads, params: jax.tree.map(jnp.sum, grads))


def grows(rate):
    return optax.GradientTransformation(
        lambda params: jnp.zeros(1), lambda g, s, p=None: (g, jnp.append(s, 0.0))
    )


def keeps_a_key(rate):
    return optax.GradientTransformation(
        lambda params: jax.random.key(0), lambda g, s, p=None: (g, s)
    )


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ("lion", '"lion" is not a module and a name in it'),
        ("optaxx.lion", 'there is no module "optaxx"'),
        ("optax.lyon", 'module optax has no "lyon". Accepted: .*lion'),
        ("optax.__name__", "is a str"),
        (without_schedule, '"without_schedule" cannot be made'),
        (lambda rate: 3, "gives a int. Accepted: one that gives an optax"),
        (needs_values, '"needs_values" cannot make an update'),
        (changes_shape, "gives updates unlike the parameters"),
        (grows, "keeps a state that no snapshot can hold"),
        (keeps_a_key, "keeps a state that no snapshot can hold"),
    ],
)
def test_open_optimizer_bad_one_is_refused(optimizer, message):
    with pytest.raises(
        ConfigError, match=re.compile(f"^config.optimizer: .*{message}")
    ):
        open_(optimizer)
