"""Compiled programs of a pycaffe net: made once, kept, and run.

Follows no file of Caffe's, which compiles nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxcaffe import errors
from jaxcaffe.pycaffe import modes
from jaxcaffe.pycaffe.state import Built, State
from jaxcaffe.spec import Blobs, Params, Stats

_MOST_PROGRAMS = 4
"""Of one stretch and direction, that differ in the blobs they return."""


def compile_once(
    state: State, built: Built, key: Any, make: Callable[[], Any]
) -> Callable[..., Any]:
    """Returns the program kept under `key`; where there is none, that of `make`.

    The program takes the number of a pass where the function takes a random key.
    """
    if key not in built.programs:
        run = make()
        net_key = state.key

        def run_numbered(
            params: Params, stats: Stats, blobs: Blobs, number: Any, *rest: Any
        ) -> Any:
            # Inside the program: each operation outside costs as much as a layer.
            pass_key = jax.random.fold_in(net_key, number)
            with jax.default_matmul_precision(modes.PRECISION):
                return run(params, stats, blobs, pass_key, *rest)

        built.programs[key] = run_numbered if state.is_exact else jax.jit(run_numbered)
    return built.programs[key]


def is_settled(built: Built, *head: Any) -> bool:
    """Returns whether a stretch has got so many programs that one for all shall do.

    Whoever reads ever other blobs would otherwise wait for a compilation each time.
    """
    return sum(key[: len(head)] == head for key in built.programs) >= _MOST_PROGRAMS


def run(state: State, program: Callable[..., Any], *given: Any) -> Any:
    """Runs a program; what the user's own layers raise comes out as it was."""
    device = modes.chosen_device()
    if device is not None:
        with jax.default_device(device):
            return _run(state, program, *given)
    return _run(state, program, *given)


def _run(state: State, program: Callable[..., Any], *given: Any) -> Any:
    if not state.has_host:
        return program(*given)
    try:
        with errors.from_callbacks():
            found = program(*given)
            jax.effects_barrier()
            return found
    except errors.CaffeError as error:
        for slot in (node.slot for node in state.graph.nodes):
            failure = getattr(slot and slot.value, "failure", None)
            if slot is not None and failure is not None:
                slot.value.failure = None
                raise failure from error
        raise
