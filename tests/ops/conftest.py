"""Runs a snippet on eight virtual CPU devices, which only a new process can have."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest

_PRELUDE = """
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

mesh = jax.make_mesh((8,), ("batch",))
draw = np.random.RandomState(0)

def check(function, operands, batched):
    # The first `batched` operands are split along axis 0, the others are everywhere.
    want = jax.jit(function)(*operands)
    split = NamedSharding(mesh, PartitionSpec("batch"))
    whole = NamedSharding(mesh, PartitionSpec())
    placed = [
        jax.device_put(x, split if i < batched else whole)
        for i, x in enumerate(operands)
    ]
    got = jax.jit(function)(*placed)
    first = jax.tree.leaves(got)[0]
    assert first.sharding.is_equivalent_to(split, first.ndim), first.sharding
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, want
    )
"""


@pytest.fixture
def run_on_devices() -> Callable[[str], None]:
    """Gives run_on_devices(code); code may use jax, jnp, np, draw, mesh and check."""

    def run(code: str) -> None:
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        }
        done = subprocess.run(
            [sys.executable, "-c", _PRELUDE + textwrap.dedent(code)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr

    return run
