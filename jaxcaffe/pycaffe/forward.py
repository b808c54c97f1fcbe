"""Runs layers of a pycaffe net forward; what nobody reads is computed when asked for.

Follows ForwardFromTo of caffe/src/caffe/net.cpp.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from jaxcaffe.pycaffe import memory, programs, shaping
from jaxcaffe.pycaffe.programs import Stretch
from jaxcaffe.pycaffe.running import compile_once, is_settled, running
from jaxcaffe.pycaffe.state import Built, Pass, State
from jaxcaffe.spec import Blobs, Stats


def run_layers(state: State, start: int, stop: int) -> jax.Array:
    """Runs layers `start` to `stop`, the latter left out, as one program.

    Returns:
      () float32, the loss of these layers, still on the device.
    """
    read_feeds(state, start, stop)
    shaping.reshape(state)
    one = open_pass(state, start, stop)
    made, wanted = choose_wanted(state, one, "forward", one.stretch)
    values, stats, loss = _run_pass(state, one, wanted)
    put_pass(state, one, made, values, stats)
    return loss


def read_feeds(state: State, start: int, stop: int) -> None:
    """Puts the next records into the tops of data layers."""
    for index, feed in state.feeds.items():
        if start <= index < stop:
            for top, value in feed().items():
                _put_data(state, top, value)


def open_pass(state: State, start: int, stop: int) -> Pass:
    """Notes what a pass through layers is given: weights, blobs, random numbers."""
    stretch = Stretch(start, stop, state.constant)
    names = find_names(state.built, stretch).outside
    number = np.uint32(state.passes)
    state.passes += 1
    params, stats = memory.read_weights(state)
    blobs = {name: state.blobs[name].data_side.to_device() for name in names}
    return Pass(state.built, stretch, params, stats, blobs, number, {})


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
    state: State, one: Pass, *head: object
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns all blobs that a pass makes, and those worth having at once.

    Args:
      state: of the net.
      one: the pass.
      *head: what the keys of the pass's programs begin with.
    """
    made = find_names(one.built, one.stretch).made
    # Python layers of the user's are not called again for a blob.
    if state.is_exact or state.has_host or is_settled(one.built, *head):
        return made, made
    last = state.graph.nodes[one.stretch.stop - 1].tops
    lean = {*state.graph.outputs, *last, *state.asked["forward"]}
    return made, tuple(name for name in made if name in lean)


def put_pass(
    state: State, one: Pass, made: tuple[str, ...], values: Blobs, stats: Stats
) -> None:
    """Takes a pass's results; the blobs that are not among them when asked for."""
    for name, value in values.items():
        _put_data(state, name, value)
    if len(values) < len(made):
        compute = once(lambda: _run_pass(state, one, made)[0])
        for name in made:
            if name not in values:
                side = state.blobs[name].data_side
                side.put(when_asked(state, "forward", name, compute))
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


def when_asked(
    state: State, way: str, name: str, compute: Callable[[], Blobs]
) -> Callable[[], jax.Array]:
    """Returns a function that gives one of the blobs that `compute` gives.

    Whoever reads a blob inside the net is likely to do so again: the next pass gives it
    at once.
    """

    def give() -> jax.Array:
        state.asked[way].add(name)
        return compute()[name]

    return give


def _run_pass(
    state: State, one: Pass, wanted: tuple[str, ...]
) -> tuple[Blobs, Stats, jax.Array]:
    def make() -> programs.Forward:
        return programs.make_forward(one.built.net, one.stretch, wanted)

    key = ("forward", one.stretch, wanted)
    program = compile_once(state, one.built, key, make)
    with running(state):
        values, stats, loss, host_tops = program(
            one.params, one.stats, one.blobs, one.number
        )
    one.host_tops.update(host_tops)
    return values, stats, loss


def _put_data(state: State, name: str, value: jax.Array) -> None:
    blob = state.blobs[name]
    blob.renew(value.shape)
    blob.data_side.put(value)
