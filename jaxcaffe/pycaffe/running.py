"""Compiled programs of a pycaffe net: made once, kept, and run.

Follows no file of Caffe's, which compiles nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
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
            return run(params, stats, blobs, pass_key, *rest)

        built.programs[key] = run_numbered if state.is_exact else jax.jit(run_numbered)
    return built.programs[key]


def is_settled(built: Built, *head: Any) -> bool:
    """Returns whether a stretch has got so many programs that one for all shall do.

    Whoever reads ever other blobs would otherwise wait for a compilation each time.
    """
    return sum(key[: len(head)] == head for key in built.programs) >= _MOST_PROGRAMS


@contextlib.contextmanager
def running(state: State) -> Iterator[None]:
    """Runs programs; what the user's own layers raise comes out as it was."""
    with modes.on_device():
        if not state.has_host:
            yield
            return
        try:
            with errors.from_callbacks():
                yield
                jax.effects_barrier()
        except errors.CaffeError as error:
            for slot in (node.slot for node in state.graph.nodes):
                failure = getattr(slot and slot.value, "failure", None)
                if slot is not None and failure is not None:
                    slot.value.failure = None
                    raise failure from error
            raise
