"""Runs layers of a pycaffe net backward, through the forward pass that came before.

Follows BackwardFromTo of caffe/src/caffe/net.cpp.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax

from jaxcaffe.pycaffe import forward, memory, programs, shaping
from jaxcaffe.pycaffe.running import compile_once, is_settled, run
from jaxcaffe.pycaffe.state import Later, Pass, State
from jaxcaffe.spec import Blobs, Params


def run_layers(state: State, start: int, stop: int) -> None:
    """Runs layers `stop`, itself left out, down to `start` backward.

    Gradients of parameters are added to their diffs, those of blobs replace theirs.
    Layers whose last forward passes differ are run one pass after the other, with the
    random numbers and values of each.
    """
    shaping.reshape(state)
    while stop > start:
        one = state.last.get(stop - 1)
        low = stop - 1
        while low > start and state.last.get(low - 1) is one:
            low -= 1
        if any(state.built.plan.layers[low:stop]):
            _run_pass(state, one or forward.open_pass(state, low, stop), low, stop)
        stop = low


def _run_pass(state: State, one: Pass, start: int, stop: int) -> None:
    one, overrides, before = _take_up(state, one, stop)
    built = one.built
    gets, open_tops = programs.reached(built.net, built.plan, start, stop)
    top_diffs = {t: state.blobs[t].diff_side.to_device() for t in open_tops}
    wanted = _choose_wanted(state, one, start, stop, gets)
    take = functools.partial(
        _run_program, state, one, start, stop, top_diffs, overrides, before
    )
    gradients, diffs = take(wanted)
    for name, value in diffs.items():
        state.blobs[name].diff_side.put(value)
    _defer_diffs(state, take, gets, gets - wanted)
    memory.add_diffs(state, built, gradients, start, stop)


def run_both(state: State) -> jax.Array:
    """Runs the whole net forward and backward, as one program.

    Returns:
      () float32, the net's loss, still on the device.
    Source: caffe/include/caffe/net.hpp, ForwardBackward. Differs: what is read of blobs
    and their diffs afterwards is computed again.
    """
    stop = state.size
    forward.read_feeds(state, 0, stop)
    shaping.reshape(state)
    one = forward.open_pass(state, 0, stop)
    built = one.built
    gets, open_tops = programs.reached(built.net, built.plan, 0, stop)
    top_diffs = {t: state.blobs[t].diff_side.to_device() for t in open_tops}
    made, wanted = forward.choose_wanted(state, built, one.stretch, "both")

    def make() -> programs.ForwardBackward:
        shapes = {name: blob.shape for name, blob in state.blobs.items()}
        return programs.make_forward_backward(
            built.net, built.plan, one.stretch, shapes, wanted
        )

    program = compile_once(state, built, ("both", wanted), make)
    values, stats, loss, gradients = run(
        state, program, one.params, one.stats, one.blobs, one.number, top_diffs
    )
    later = Later(state.asked["forward"], [n for n in made if n not in wanted])
    later.compute = forward.once(lambda: forward.compute_blobs(state, one, made))
    forward.put_pass(state, one, later, values, stats)
    take = functools.partial(_run_program, state, one, 0, stop, top_diffs, {}, None)
    _defer_diffs(state, take, gets, gets)
    memory.add_diffs(state, built, gradients, 0, stop)
    return loss


def _take_up(
    state: State, one: Pass, stop: int
) -> tuple[Pass, Blobs, programs.Before | None]:
    """Finds what has been written to since a forward pass.

    Returns:
      The pass with weights and outside blobs as they are now; values written over
      those that it computed; and what it was given, if anything was written to: blobs
      further on keep their values.
    """
    made = forward.find_names(one.built, one.stretch._replace(stop=stop)).made
    overrides = {
        name: state.blobs[name].data_side.to_device()
        for name in made
        if state.blobs[name].data_side.was_written()
    }
    own = one.blobs.keys() - set(forward.find_names(one.built, one.stretch).made)
    if not overrides and _is_unchanged(state, one, own):
        return one, overrides, None
    params, stats = memory.read_weights(state)
    blobs = one.blobs | {name: state.blobs[name].data_side.to_device() for name in own}
    now = one._replace(params=params, stats=stats, blobs=blobs)
    return now, overrides, (one.params, one.stats, one.blobs)


def _is_unchanged(state: State, one: Pass, own: set[str]) -> bool:
    """Returns whether weights and the blobs `own` are those that a pass was given."""
    given = one.params
    return all(
        state.blobs[name].data_side.still_holds(one.blobs[name]) for name in own
    ) and all(
        blob.data_side.still_holds(given[layer][name])
        if name in given.get(layer, {})
        # Statistics, which the pass itself may have moved.
        else not blob.data_side.was_written()
        for (layer, name), blob in state.owners.items()
    )


def _choose_wanted(
    state: State, one: Pass, start: int, stop: int, gets: frozenset[str]
) -> frozenset[str]:
    """Returns the blobs whose diffs are worth having at once."""
    stretch = one.stretch._replace(stop=stop)
    if state.has_host or is_settled(one.built, "backward", stretch, start):
        return gets
    lean = {*state.graph.nodes[start].bottoms, *state.inputs, *state.asked["backward"]}
    return gets & lean


def _defer_diffs(
    state: State,
    take: Callable[[frozenset[str]], tuple[Params, Blobs]],
    gets: frozenset[str],
    names: frozenset[str],
) -> None:
    """Has diffs computed when one of them is asked for."""
    later = Later(state.asked["backward"], names)
    later.compute = forward.once(lambda: take(gets)[1])
    for name, fetch in later.fetches:
        state.blobs[name].diff_side.put(fetch)


def _run_program(
    state: State,
    one: Pass,
    start: int,
    stop: int,
    top_diffs: Blobs,
    overrides: Blobs,
    before: programs.Before | None,
    wanted: frozenset[str],
) -> tuple[Params, Blobs]:
    stretch = one.stretch._replace(stop=stop)
    # Blobs have their true shapes also where those depend on values.
    shapes = {name: blob.shape for name, blob in state.blobs.items()}

    def make() -> programs.Backward:
        return programs.make_backward(
            one.built.net, one.built.plan, stretch, start, shapes, wanted
        )

    replayed = frozenset(one.host_tops)
    key = ("backward", stretch, start, wanted, frozenset(overrides), replayed)
    program = compile_once(state, one.built, key, make)
    given = (one.params, one.stats, one.blobs, one.number, one.host_tops)
    return run(state, program, *given, top_diffs, overrides, before)
