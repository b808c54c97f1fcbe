"""A training state without a net."""

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxcaffe import checkpoint
from jaxcaffe.state import TrainState, init_state


@pytest.fixture
def make_state():
    """Returns make(iteration, rows=3, hidden=...) -> a state of that iteration."""

    def make(iteration: int, rows: int = 3, hidden=()) -> TrainState:
        params = {"ip": {"weight": jnp.full((rows, 2), 1.0 + iteration)}}
        stats = {"bn": {"mean": jnp.full((2,), float(iteration))}}
        state = init_state(
            params, stats, optax.trace(0.9), jax.random.key(0), 2, hidden
        )
        return state._replace(iter=jnp.array(iteration, jnp.int32))

    return make


@pytest.fixture
def write(tmp_path, make_state):
    """Returns write(*iterations, keep=0, note={}) -> the folder they are in."""

    def write_all(*iterations: int, keep: int = 0, note=None, **options) -> str:
        folder = str(tmp_path / "snapshots")
        writer = checkpoint.open_writer(folder, keep)
        for iteration in iterations:
            writer.save(make_state(iteration, **options), note or {"seed": 1})
        assert writer.wait() is None
        writer.close()
        return folder

    return write_all
