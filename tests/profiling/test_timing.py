"""Clocks and counters."""

import time

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxcaffe.profiling import report, timing


def test_time_call_is_the_mean_without_the_first_call():
    waits = iter([0.2, 0.01, 0.03])

    def call():
        time.sleep(next(waits))
        return jnp.zeros(())

    assert 20 <= timing.time_call(call, 2) < 100


def test_compile_program_counts_work_traffic_and_memory():
    struct = jax.ShapeDtypeStruct((200, 200), jnp.float32)
    made = timing.compile_program(jax.jit(jnp.matmul), struct, struct)
    assert made.cost.flops == 2 * 200**3
    assert made.cost.bytes == 3 * 4 * 200**2
    assert made.cost.memory >= 3 * 4 * 200**2
    assert made.trace_time > 0
    assert made.compile_time > 0
    ones = jnp.ones((200, 200))
    assert float(made.call(ones, ones)[0, 0]) == 200


def test_donated_memory_counts_once():
    struct = jax.ShapeDtypeStruct((1000,), jnp.float32)
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    assert timing.compile_program(add, struct).cost.memory < 2 * 4000


def test_measure_peak_is_plausible_and_quick():
    begin = time.perf_counter()
    peak = timing.measure_peak()
    assert time.perf_counter() - begin < 30
    # Slower is no machine that runs JAX, faster is a hall of them.
    assert 1e8 < peak.flops < 1e16
    assert 1e7 < peak.bytes < 1e14


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"),
        (1234.5, "1234"),
        (123456, "123456"),
        (12.3456, "12.35"),
        (0.00012344, "0.000123"),
        (5.0, "5"),
    ],
)
def test_digits_never_writes_an_exponent(value, written):
    assert report._digits(value) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [(2.5e12, "2.5 T"), (9.99e9, "9.99 G"), (1e6, "1 M"), (1500, "1.5 k"), (7, "7 ")],
)
def test_scale_writes_an_si_prefix(value, written):
    assert report._scale(value) == written


@pytest.fixture
def cache(tmp_path):
    """Compiled programs are kept in a folder that is empty at first."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_compile_program_tells_whether_it_was_kept_from_before(cache):
    def make():
        return jax.jit(lambda x: x * 3 + 1)

    x = jnp.zeros(3)
    assert not timing.compile_program(make(), x).was_kept
    assert timing.compile_program(make(), x).was_kept
