"""Runs layers of a pycaffe net forward; what nobody reads is computed when asked for.

Follows ForwardFromTo of caffe/src/caffe/net.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxcaffe.pycaffe import memory, programs, shaping
from jaxcaffe.pycaffe.programs import Stretch
from jaxcaffe.pycaffe.running import compile_once, is_settled, run
from jaxcaffe.pycaffe.state import Built, Later, Pass, Route, State
from jaxcaffe.spec import Blobs, Stats


def run_layers(state: State, start: int, stop: int) -> float | jax.Array:
    """Runs layers `start` to `stop`, the latter left out, as one program.

    Returns:
      () float32, the loss of these layers, still on the device; 0 if they have none.
    """
    read_feeds(state, start, stop)
    shaping.reshape(state)
    route = _find_route(state, start, stop)
    one = _open_pass(state, route.stretch, route.names)
    for name in route.wanted:  # its memory can be used again
        state.blobs[name].data_side.let_go()
    values, stats, loss = _run_pass(state, one, route.program)
    route.later.compute = once(lambda: compute_blobs(state, one, route.names.made))
    put_pass(state, one, route.later, values, stats)
    return 0.0 if loss is None else loss


def read_feeds(state: State, start: int, stop: int) -> None:
    """Puts the next records into the tops of data layers."""
    for index, feed in state.feeds.items():
        if start <= index < stop:
            for top, value in feed().items():
                _put_data(state, top, value)


def open_pass(state: State, start: int, stop: int) -> Pass:
    """Notes what a pass through layers is given: weights, blobs, random numbers."""
    stretch = Stretch(start, stop, state.constant)
    return _open_pass(state, stretch, find_names(state.built, stretch))


def _open_pass(state: State, stretch: Stretch, names: programs.Names) -> Pass:
    number = np.uint32(state.passes)
    state.passes += 1
    params, stats = memory.read_weights(state)
    blobs = {name: state.blobs[name].data_side.to_device() for name in names.outside}
    return Pass(state.built, stretch, params, stats, blobs, number, {})


def _find_route(state: State, start: int, stop: int) -> Route:
    """Returns how a pass through layers is run; found out once."""
    built = state.built
    age = (len(state.asked["forward"]), len(built.programs))
    route = built.routes.get((start, stop))
    if route is None or route.age != age:
        stretch = Stretch(start, stop, state.constant)
        _, wanted = choose_wanted(state, built, stretch, "forward", stretch)
        program = _find_program(state, built, stretch, wanted)
        names = find_names(built, stretch)
        rest = [name for name in names.made if name not in wanted]
        later = Later(state.asked["forward"], rest)
        age = (age[0], len(built.programs))
        route = Route(stretch, names, wanted, program, later, age)
        built.routes[start, stop] = route
    return route


def find_names(built: Built, stretch: Stretch) -> programs.Names:
    """Returns the blobs of a stretch; looked for once."""
    found = built.names.get(stretch)
    if found is None:
        found = programs.Names(
            programs.outside(built.net, stretch), programs.makes(built.net, stretch)
        )
        built.names[stretch] = found
    return found


def choose_wanted(
    state: State, built: Built, stretch: Stretch, *head: object
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns all blobs that a pass makes, and those worth having at once.

    Args:
      state: of the net.
      built: the net as the pass runs it.
      stretch: the layers of the pass.
      *head: what the keys of the pass's programs begin with.
    """
    made = find_names(built, stretch).made
    # Python layers of the user's are not called again for a blob.
    if state.is_exact or state.has_host or is_settled(built, *head):
        return made, made
    last = state.graph.nodes[stretch.stop - 1].tops
    lean = {*state.graph.outputs, *last, *state.asked["forward"]}
    return made, tuple(name for name in made if name in lean)


def put_pass(
    state: State, one: Pass, later: Later, values: Blobs, stats: Stats
) -> None:
    """Takes a pass's results; those that it left for later when asked for."""
    for name, value in values.items():
        _put_data(state, name, value)
    for name, fetch in later.fetches:
        side = state.blobs[name].data_side
        if not side.awaits(fetch):
            side.put(fetch)
    memory.put_stats(state, stats)
    for index in range(one.stretch.start, one.stretch.stop):
        state.last[index] = one


def once(compute: Callable[[], Blobs]) -> Callable[[], Blobs]:
    """Returns a function that computes at its first call and remembers."""
    found: list[Blobs] = []

    def run() -> Blobs:
        if not found:
            found.append(compute())
        return found[0]

    return run


def compute_blobs(state: State, one: Pass, names: tuple[str, ...]) -> Blobs:
    """Returns blobs of a pass that has been run."""
    program = _find_program(state, one.built, one.stretch, names)
    return _run_pass(state, one, program)[0]


def _find_program(
    state: State, built: Built, stretch: Stretch, wanted: tuple[str, ...]
) -> Callable[..., Any]:
    def make() -> programs.Forward:
        return programs.make_forward(built.net, stretch, wanted)

    return compile_once(state, built, ("forward", stretch, wanted), make)


def _run_pass(
    state: State, one: Pass, program: Callable[..., Any]
) -> tuple[Blobs, Stats, jax.Array | None]:
    values, stats, loss, host_tops = run(
        state, program, one.params, one.stats, one.blobs, one.number
    )
    one.host_tops.update(host_tops)
    return values, stats, loss


def _put_data(state: State, name: str, value: jax.Array) -> None:
    blob = state.blobs[name]
    blob.renew(value.shape)
    blob.data_side.put(value)
