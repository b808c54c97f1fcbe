import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcaffe.errors import PrototxtError
from jaxcaffe.solver.build import build_tx

RTOL = 2e-6  # a few float32 roundings over six updates

PARAMS = {
    "conv1": {"weight": (3, 2, 2, 2), "bias": (3,)},
    "frozen": {"weight": (4, 3)},
    "ip": {"weight": (5, 3), "bias": (5,)},
}
LR_MULTS = {
    "conv1": {"weight": 1.0, "bias": 2.0},
    "frozen": {"weight": 0.0},
    "ip": {"weight": 10.0, "bias": 0.5},
}
DECAY_MULTS = {
    "conv1": {"weight": 1.0, "bias": 0.0},
    "frozen": {"weight": 1.0},
    "ip": {"weight": 250.0, "bias": 1.0},
}
BASE = 'base_lr: 0.1 lr_policy: "step" gamma: 0.5 stepsize: 3 max_iter: 6 '


def draw(seed: int, scale: float = 1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: (scale * rng.standard_normal(shape)).astype(np.float32),
        PARAMS,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def leaves(tree):
    return [(layer, blob, tree[layer][blob]) for layer in tree for blob in tree[layer]]


def train_by_hand(
    params, grads_of, *, momentum, decay, weight_decay, iter_size, clip_gradients
):
    """Six updates of Caffe's SGD in double precision, one parameter at a time."""
    w = {(la, bl): np.float64(x) for la, bl, x in leaves(params)}
    h = {key: np.zeros_like(x) for key, x in w.items()}
    for i in range(6):
        rate = 0.1 * 0.5 ** (i // 3)
        g = {
            (la, bl): np.float64(x)
            for la, bl, x in leaves(grads_of(i))
            if LR_MULTS[la][bl] != 0
        }
        norm = np.sqrt(sum(np.sum(x * x) for x in g.values()))
        scale = clip_gradients / norm if 0 <= clip_gradients < norm else 1.0
        for la, bl in g:
            key = (la, bl)
            mean = g[key] * scale / iter_size
            slope = w[key] if decay == "L2" else np.sign(w[key])
            mean = mean + weight_decay * DECAY_MULTS[la][bl] * slope
            h[key] = momentum * h[key] + rate * LR_MULTS[la][bl] * mean
            w[key] = w[key] - h[key]
    return w, h


@pytest.mark.parametrize(
    ("text", "by_hand"),
    [
        ("", {}),
        ("momentum: 0.9", {"momentum": 0.9}),
        (
            "momentum: 0.9 weight_decay: 0.01",
            {"momentum": 0.9, "weight_decay": 0.01},
        ),
        (
            'momentum: 0.9 weight_decay: 0.01 regularization_type: "L1"',
            {"momentum": 0.9, "weight_decay": 0.01, "decay": "L1"},
        ),
        (
            "momentum: 0.5 weight_decay: 0.01 clip_gradients: 2",
            {"momentum": 0.5, "weight_decay": 0.01, "clip_gradients": 2},
        ),
        (
            "momentum: 0.5 weight_decay: 0.01 clip_gradients: 2 iter_size: 3",
            {
                "momentum": 0.5,
                "weight_decay": 0.01,
                "clip_gradients": 2,
                "iter_size": 3,
            },
        ),
        ("clip_gradients: 1000 iter_size: 2", {"iter_size": 2}),
    ],
)
def test_build_tx_sgd_six_updates_follow_the_recurrence(parse, text, by_hand):
    settings = {
        "momentum": 0.0,
        "decay": "L2",
        "weight_decay": 0.0,
        "iter_size": 1,
        "clip_gradients": -1.0,
    }
    tx = build_tx(parse(BASE + text), LR_MULTS, DECAY_MULTS)

    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    start = draw(0)
    params, state = jax.tree.map(jnp.asarray, start), tx.init(start)
    for i in range(6):
        params, state = step(params, state, draw(10 + i))

    w, h = train_by_hand(start, lambda i: draw(10 + i), **(settings | by_hand))
    assert int(state.count) == 6
    for layer, blob, value in leaves(params):
        assert value.dtype == state.history[layer][blob].dtype == jnp.float32
        np.testing.assert_allclose(value, w[layer, blob], rtol=RTOL, atol=RTOL)
        np.testing.assert_allclose(
            state.history[layer][blob], h[layer, blob], rtol=RTOL, atol=RTOL
        )


def test_build_tx_init_gives_zero_history_like_params(parse):
    params = draw(0)
    state = build_tx(parse(BASE), LR_MULTS, DECAY_MULTS).init(params)
    assert (state.count.shape, state.count.dtype) == ((), jnp.int32)
    assert jax.tree.structure(state.history) == jax.tree.structure(params)
    for (_, _, h), (_, _, w) in zip(leaves(state.history), leaves(params), strict=True):
        assert h.shape == w.shape
        assert not h.any()


@pytest.mark.parametrize("absent", [None, "huge", "nan"])
def test_build_tx_frozen_parameter_is_left_alone(parse, absent):
    text = "momentum: 0.9 weight_decay: 0.1 clip_gradients: 0.5"
    tx = build_tx(parse(BASE + text), LR_MULTS, DECAY_MULTS)
    params = draw(0)
    with_zeros, given = draw(1), draw(1)
    with_zeros["frozen"]["weight"] = np.zeros((4, 3), np.float32)
    given["frozen"]["weight"] = {
        None: None,
        "huge": np.full((4, 3), 1e20, np.float32),
        "nan": np.full((4, 3), np.nan, np.float32),
    }[absent]

    expected, _ = tx.update(with_zeros, tx.init(params), params)
    updates, state = tx.update(given, tx.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, updates, expected)
    assert not updates["frozen"]["weight"].any()
    assert not state.history["frozen"]["weight"].any()


def test_build_tx_all_frozen_changes_nothing(parse):
    frozen = jax.tree.map(lambda _: 0.0, LR_MULTS)
    tx = build_tx(parse(BASE + "clip_gradients: 1"), frozen, DECAY_MULTS)
    params = draw(0)
    updates, state = tx.update(draw(1), tx.init(params), params)
    assert not any(u.any() for u in jax.tree.leaves(updates))
    assert int(state.count) == 1


def test_build_tx_clips_the_sum_before_dividing_and_decaying(parse):
    solver = parse(
        'base_lr: 1 lr_policy: "fixed" clip_gradients: 1 iter_size: 4 weight_decay: 0.5'
    )
    tx = build_tx(solver, [1.0], [1.0])
    params = [jnp.array([2.0, 0.0])]
    updates, _ = tx.update([jnp.array([3.0, 4.0])], tx.init(params), params)
    # The gradient (3, 4) is cut to (0.6, 0.8), a quarter of it is (0.15, 0.2), and the
    # decay adds (1, 0).
    np.testing.assert_allclose(updates[0], [-1.15, -0.2], rtol=RTOL)


def test_build_tx_jitted_update_makes_no_copies_of_blobs(parse):
    text = "momentum: 0.9 weight_decay: 0.1 clip_gradients: 0.5 iter_size: 2"
    tx = build_tx(parse(BASE + text), {"w": 1.0, "b": 2.0}, {"w": 1.0, "b": 0.0})
    params = {"w": jnp.ones((512, 256)), "b": jnp.ones(512)}
    state = tx.init(params)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params)
    compiled = compiled.compile()
    text = compiled.as_text()
    entry = text[text.index("ENTRY") :]
    made = re.findall(r"= f32\[512,256\]\S* ([\w-]+)\(", entry)
    # The CPU compiler gives a fusion one result, so history and parameter take one
    # each; others make both in one.
    assert set(made) <= {"parameter", "fusion", "get-tuple-element", "opt-barrier"}
    assert made.count("fusion") <= 2
    # Parameters and history are written in place, without room for the large blob.
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes >= 2 * 4 * (512 * 256 + 512)
    assert memory.temp_size_in_bytes < 4 * 512 * 256


@pytest.mark.parametrize(
    ("type_", "histories"),
    [
        ("SGD", 1),
        ("Nesterov", 1),
        ("AdaGrad", 1),
        ("RMSProp", 1),
        ("AdaDelta", 2),
        ("Adam", 2),
    ],
)
def test_build_tx_every_type_learns_and_leaves_frozen_parameters(
    parse, type_, histories
):
    solver = parse(f'base_lr: 0.1 lr_policy: "fixed" type: "{type_}"')
    mults = {"w": 1.0, "b": 0.0}
    tx = build_tx(solver, mults, mults)
    params = {"w": jnp.ones(2), "b": jnp.ones(1)}
    state = tx.init(params)
    assert len(jax.tree.leaves(state.history)) == 2 * histories
    grads = {"w": jnp.array([1.0, -1.0]), "b": None}
    updates, state = jax.jit(tx.update)(grads, state, params)
    assert updates["w"][0] < 0 < updates["w"][1]
    assert not np.any(updates["b"])
    assert not any(np.any(h) for h in jax.tree.leaves(state.history["b"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'type: "Momentum"',
            r'solver type "Momentum" is unknown. Accepted: AdaDelta, AdaGrad, Adam, ',
        ),
        (
            'weight_decay: 0.1 regularization_type: "L3"',
            r'regularization_type "L3" is unknown. Accepted: L1, L2\.',
        ),
        (
            'weight_decay: 0.1 regularization_type: "l2"',
            'regularization_type "l2" is unknown. Accepted: L2',
        ),
        ("iter_size: 0", "iter_size is 0. Accepted: iter_size >= 1."),
        ("gamma: -1", 'lr_policy "step" has gamma -1. Accepted: gamma >= 0.'),
    ],
)
def test_build_tx_bad_solver_is_refused(parse, text, message):
    base = BASE.replace("gamma: 0.5", "") if "gamma" in text else BASE
    with pytest.raises(PrototxtError, match=f"^s.prototxt: {message}"):
        build_tx(parse(base + text), [1.0], [1.0], "s.prototxt")


@pytest.mark.parametrize(("weight_decay", "decay_mult"), [(0.0, 1.0), (0.1, 0.0)])
def test_build_tx_unknown_regularization_type_without_decay_is_not_read(
    parse, weight_decay, decay_mult
):
    solver = parse(BASE + f'weight_decay: {weight_decay} regularization_type: "none"')
    tx = build_tx(solver, [1.0], [decay_mult])
    params = [jnp.ones(2)]
    updates, _ = tx.update([jnp.ones(2)], tx.init(params), params)
    np.testing.assert_allclose(updates[0], [-0.1, -0.1], rtol=RTOL)


def test_build_tx_adaptive_rule_remembers_the_decay_of_a_frozen_parameter(parse):
    # As Caffe writes it into a .solverstate.
    solver = parse(
        'base_lr: 0.1 lr_policy: "fixed" type: "AdaGrad" '
        "weight_decay: 0.5 clip_gradients: 0.1"
    )
    tx = build_tx(solver, {"w": 0.0}, {"w": 3.0})
    params = {"w": jnp.array([2.0, -4.0])}
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update({"w": jnp.ones(2)}, state, params)
        assert not np.any(updates["w"])
    np.testing.assert_allclose(state.history["w"], [2 * 3.0**2, 2 * 6.0**2], rtol=RTOL)
