"""Runs layers of a pycaffe net backward, through the forward pass that came before.

Follows BackwardFromTo of caffe/src/caffe/net.cpp.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax

from jaxcaffe.pycaffe import forward, memory, programs, shaping
from jaxcaffe.pycaffe.running import compile_once, is_settled, running
from jaxcaffe.pycaffe.state import Pass, State
from jaxcaffe.spec import Blobs, Params


def run_layers(state: State, start: int, stop: int) -> None:
    """Runs layers `stop`, itself left out, down to `start` backward, as one program.

    Gradients of parameters are added to their diffs, those of blobs replace theirs.
    """
    shaping.reshape(state)
    one, overrides = _find_pass(state, start, stop)
    built = one.built
    gets, open_tops = programs.reached(built.net, built.plan, start, stop)
    top_diffs = {t: state.blobs[t].diff_side.to_device() for t in open_tops}
    wanted = _choose_wanted(state, one, start, stop, gets)
    run = functools.partial(_run_program, state, one, start, stop, top_diffs, overrides)
    gradients, diffs = run(wanted)
    for name, value in diffs.items():
        state.blobs[name].diff_side.put(value)
    _defer_diffs(state, run, gets, gets - wanted)
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
    made, wanted = forward.choose_wanted(state, one, "both")

    def make() -> programs.ForwardBackward:
        shapes = {name: blob.shape for name, blob in state.blobs.items()}
        return programs.make_forward_backward(
            built.net, built.plan, one.stretch, shapes, wanted
        )

    program = compile_once(state, built, ("both", wanted), make)
    with running(state):
        values, stats, loss, gradients = program(
            one.params, one.stats, one.blobs, one.number, top_diffs
        )
    forward.put_pass(state, one, made, values, stats)
    run = functools.partial(_run_program, state, one, 0, stop, top_diffs, {})
    _defer_diffs(state, run, gets, gets)
    memory.add_diffs(state, built, gradients, 0, stop)
    return loss


def _find_pass(state: State, start: int, stop: int) -> tuple[Pass, Blobs]:
    """Returns the forward pass to go back through, and values written since."""
    one = state.last.get(stop - 1)
    same = one is not None and all(
        state.last.get(index) is one for index in range(start, stop)
    )
    if one is None or not same or _was_changed(state, one):
        return forward.open_pass(state, start, stop), {}
    made = programs.makes(one.built.net, one.stretch._replace(stop=stop))
    overrides = {
        name: state.blobs[name].data_side.to_device()
        for name in made
        if state.blobs[name].data_side.was_written()
    }
    return one, overrides


def _was_changed(state: State, one: Pass) -> bool:
    """Returns whether what a pass was given has been written to since."""
    own = one.blobs.keys() - set(programs.makes(one.built.net, one.stretch))
    sides = [state.blobs[name].data_side for name in own]
    sides += [blob.data_side for blob in state.owners.values()]
    return any(side.was_written() for side in sides)


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
    run: Callable[[frozenset[str]], tuple[Params, Blobs]],
    gets: frozenset[str],
    names: frozenset[str],
) -> None:
    """Has diffs computed when one of them is asked for."""
    compute = forward.once(lambda: run(gets)[1])
    for name in names:
        side = state.blobs[name].diff_side
        side.put(forward.when_asked(state, "backward", name, compute))


def _run_program(
    state: State,
    one: Pass,
    start: int,
    stop: int,
    top_diffs: Blobs,
    overrides: Blobs,
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
    with running(state):
        return program(
            one.params,
            one.stats,
            one.blobs,
            one.number,
            one.host_tops,
            top_diffs,
            overrides,
        )
