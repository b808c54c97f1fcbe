"""Measures time on a device, and what the device can do at best.

Follows caffe/src/caffe/util/benchmark.cpp, which waits for the device too.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.monitoring
import jax.numpy as jnp

_CACHE_HIT = "/jax/compilation_cache/cache_hits"  # what JAX reports of its cache
_BEST_OF = 3
_LONG_ENOUGH = 0.1  # s: a call that lasts so long is worth measuring
_MATRIX_ROWS = (1024, 2048, 4096, 8192, 16384)
_COPY_BYTES = tuple(1 << power for power in (27, 28, 29, 30))


class Peak(NamedTuple):
    """What one device was seen to do."""

    flops: float  # FLOP/s, product of float32 matrices at the precision set
    bytes: float  # B/s, reading and writing memory, both counted


class Cost(NamedTuple):
    """What one call of a compiled program needs, on each device."""

    flops: float
    bytes: float  # read and written, as XLA counts it: caches may save some of it
    memory: int  # B: arguments, results and intermediate values at once


class Compiled(NamedTuple):
    """A program and how long it took to make."""

    call: Callable[..., Any]
    cost: Cost
    trace_time: float  # s
    compile_time: float  # s
    was_kept: bool = False  # found on disk, as an earlier process had compiled it


def time_call(call: Callable[[], Any], iterations: int) -> float:
    """Returns the mean duration in ms; each call's results are waited for.

    One more call goes before, for whatever happens only once.

    Args:
      call: returns arrays.
      iterations: at least 1.
    """
    jax.block_until_ready(call())
    begin = time.perf_counter()
    for _ in range(iterations):
        jax.block_until_ready(call())
    return (time.perf_counter() - begin) / iterations * 1e3


def compile_program(jitted: Any, *args: Any) -> Compiled:
    """Compiles a jitted function for its arguments, without calling it.

    Args:
      jitted: from jax.jit.
      *args: arrays or ShapeDtypeStructs.
    """
    begin = time.perf_counter()
    lowered = jitted.lower(*args)
    traced = time.perf_counter()
    with _collecting_events() as events:
        compiled = lowered.compile()
    end = time.perf_counter()
    return Compiled(
        compiled,
        read_cost(compiled),
        traced - begin,
        end - traced,
        was_kept=_CACHE_HIT in events,
    )


@contextlib.contextmanager
def _collecting_events() -> Iterator[list[str]]:
    events: list[str] = []

    def collect(event: str, **_: object) -> None:
        events.append(event)

    jax.monitoring.register_event_listener(collect)
    try:
        yield events
    finally:
        jax.monitoring.unregister_event_listener(collect)


def read_cost(compiled: Any) -> Cost:
    """Returns the cost of a compiled program, from XLA's analyses of it."""
    counts = compiled.cost_analysis() or {}
    memory = compiled.memory_analysis()
    held = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
        if memory
        else 0
    )
    return Cost(counts.get("flops", 0.0), counts.get("bytes accessed", 0.0), held)


def measure_peak() -> Peak:
    """Measures the default device for a second or two.

    Problems grow until they last long enough, so that neither a slow nor a fast device
    is misjudged; the best of a few calls counts.
    """
    return Peak(_measure_flops(), _measure_bytes())


def _measure_flops() -> float:
    product = jax.jit(jnp.matmul)
    best = 0.0
    for rows in _MATRIX_ROWS:
        matrix = jnp.full((rows, rows), 1e-3, jnp.float32)
        seconds = _time_best(functools.partial(product, matrix, matrix))
        best = max(best, 2 * rows**3 / seconds)
        if seconds > _LONG_ENOUGH / 4:
            break
    return best


def _measure_bytes() -> float:
    # In place, so that no time goes into fetching fresh pages from the system.
    rewrite = jax.jit(lambda x: x + 1, donate_argnums=0)
    best = 0.0
    for size in _COPY_BYTES:
        held = [jnp.zeros(size // 4, jnp.float32)]

        def step(held: list[jax.Array] = held) -> jax.Array:
            held[0] = rewrite(held[0])
            return held[0]

        seconds = _time_best(step)
        best = max(best, 2 * size / seconds)
        if seconds > _LONG_ENOUGH / 10:
            break
    return best


def _time_best(call: Callable[[], jax.Array]) -> float:
    call().block_until_ready()
    times = []
    for _ in range(_BEST_OF):
        begin = time.perf_counter()
        call().block_until_ready()
        times.append(time.perf_counter() - begin)
    return min(times)
