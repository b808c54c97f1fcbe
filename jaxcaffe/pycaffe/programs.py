"""Pure functions that run a stretch of a net's layers, forward or backward.

Follows ForwardFromTo and BackwardFromTo of caffe/src/caffe/net.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcaffe.layers.python import attach_gradient
from jaxcaffe.net.backward import BackwardPlan
from jaxcaffe.spec import Blobs, LayerCall, Net, Node, Params, Shape, Stats


class Stretch(NamedTuple):
    """Layers `start` to `stop`, the latter left out, and what comes from outside."""

    start: int
    stop: int
    given: frozenset[str]  # tops inside the stretch that are given all the same


HostTops = dict[int, tuple[jax.Array, ...]]
"""Number of a Python layer -> the tops that its forward gave."""

Forward = Callable[
    [Params, Stats, Blobs, jax.Array], tuple[Blobs, Stats, jax.Array | None, HostTops]
]
"""(params, stats, outside blobs, key) -> (blobs, new stats, () float32 loss if there is
one, tops of Python layers)."""

Before = tuple[Params, Stats, Blobs]
"""Params, stats and outside blobs of a forward pass, where they have changed since."""

Backward = Callable[
    [Params, Stats, Blobs, jax.Array, HostTops, Blobs, Blobs, Before | None],
    tuple[Params, Blobs],
]
"""(params, stats, outside blobs, key, tops of Python layers, top diffs, overrides,
before) -> (gradients of params, diffs of blobs)."""


ForwardBackward = Callable[
    [Params, Stats, Blobs, jax.Array, Blobs],
    tuple[Blobs, Stats, jax.Array, Params],
]
"""(params, stats, outside blobs, key, top diffs) -> (blobs, new stats, () float32 loss,
gradients of params)."""


class Names(NamedTuple):
    """Blobs of a stretch, each in order."""

    outside: tuple[str, ...]  # those that it reads but does not make
    made: tuple[str, ...]


def outside(net: Net, stretch: Stretch) -> tuple[str, ...]:
    """Returns the blobs that a stretch reads but does not make, in order."""
    made: set[str] = set()
    names: dict[str, None] = {}
    for node, call in _nodes(net, stretch.start, stretch.stop):
        names.update((b, None) for b in node.bottoms if b not in made)
        for top in node.tops:
            if call is None or top in stretch.given:
                names[top] = None
            made.add(top)
    return tuple(names)


def makes(net: Net, stretch: Stretch) -> tuple[str, ...]:
    """Returns the blobs that a stretch computes, in order."""
    return tuple(
        dict.fromkeys(
            top
            for node, call in _nodes(net, stretch.start, stretch.stop)
            for top in node.tops
            if call is not None and top not in stretch.given
        )
    )


def make_forward(net: Net, stretch: Stretch, wanted: Collection[str]) -> Forward:
    """Returns the function that runs a stretch.

    Args:
      net: a translated net.
      stretch: which of its layers.
      wanted: the blobs to return, of those the stretch makes.

    Returns:
      forward(params, stats, blobs, key), where blobs holds `outside` arrays, float32.
    Source: caffe/src/caffe/net.cpp, ForwardFromTo. Differs: none.
    """

    def forward(
        params: Params, stats: Stats, blobs: Blobs, key: jax.Array
    ) -> tuple[Blobs, Stats, jax.Array | None, HostTops]:
        blobs = dict(blobs)
        host_tops: HostTops = {}
        stats = {layer: dict(arrays) for layer, arrays in stats.items()}
        loss: jax.Array | None = None
        for index in range(stretch.start, stretch.stop):
            node = net.graph.nodes[index]
            tops = _run_layer(net, index, params, stats, blobs, key, stretch.given)
            blobs |= tops
            if node.slot is not None:
                host_tops[index] = tuple(blobs[top] for top in node.tops)
            for top, weight in zip(node.tops, node.loss_weights, strict=True):
                if weight:
                    share = weight * jnp.sum(blobs[top])
                    loss = share if loss is None else loss + share
        return {name: blobs[name] for name in wanted}, stats, loss, host_tops

    return forward


def reached(
    net: Net, plan: BackwardPlan, start: int, stop: int
) -> tuple[frozenset[str], tuple[str, ...]]:
    """Finds what a backward pass through layers `start` to `stop` writes and reads.

    Returns:
      The blobs that get a diff, and the blobs whose diff has to be given because no
      layer of the stretch computes it.
    """
    gets: set[str] = set()
    open_tops: dict[str, None] = {}
    for index in range(start, stop):
        node = net.graph.nodes[index]
        for bottom, need in zip(node.bottoms, plan.bottoms[index], strict=True):
            if plan.layers[index] and need:
                gets.add(bottom)
                open_tops.pop(bottom, None)
        if plan.layers[index]:
            open_tops.update(dict.fromkeys(node.tops))
    return frozenset(gets), tuple(open_tops)


def make_backward(
    net: Net,
    plan: BackwardPlan,
    stretch: Stretch,
    start: int,
    shapes: Mapping[str, Shape],
    wanted: Collection[str],
) -> Backward:
    """Returns the function that runs layers of a stretch backward.

    The forward pass of the whole stretch is computed again from what it was given;
    gradients flow from its end down to layer `start`. Python layers are not called
    again: what their forward gave is given too.

    Args:
      net: a translated net.
      plan: from plan_backward.
      stretch: the layers that are run forward; its end is where backward begins.
      start: the last layer to run backward, stretch.start or later.
      shapes: blob -> shape as it was in the forward pass.
      wanted: blobs whose diff is returned, if backward computes it.

    Returns:
      backward(params, stats, blobs, key, host_tops, top_diffs, overrides, before):
      top_diffs as `reached` lists them; overrides are values that take the place of
      computed ones; with `before`, blobs have the values that these give, while
      gradients pass through layers as they are now.
      A parameter's gradient is the sum over the layers that share it; one that Caffe
      would leave alone is zero.
    Source: caffe/src/caffe/net.cpp, BackwardFromTo. Differs: none.
    """
    both = _make_both(net, plan, stretch, start, shapes, wanted)

    def backward(
        params: Params,
        stats: Stats,
        blobs: Blobs,
        key: jax.Array,
        host_tops: HostTops,
        top_diffs: Blobs,
        overrides: Blobs,
        before: Before | None = None,
    ) -> tuple[Params, Blobs]:
        given = (params, stats, blobs, key, host_tops, top_diffs, overrides, before)
        return both(*given)[1]

    return backward


def make_forward_backward(
    net: Net,
    plan: BackwardPlan,
    stretch: Stretch,
    shapes: Mapping[str, Shape],
    wanted: Collection[str],
) -> ForwardBackward:
    """Returns the function that runs a stretch forward and backward at once.

    Args:
      net: a translated net.
      plan: from plan_backward.
      stretch: which of its layers.
      shapes: blob -> shape.
      wanted: the blobs to return, of those the stretch makes.

    Returns:
      forward_backward(params, stats, blobs, key, top_diffs), with values as
      make_forward and gradients as make_backward give them, but no diffs of blobs.
    Source: caffe/include/caffe/net.hpp, ForwardBackward. Differs: none.
    """
    both = _make_both(net, plan, stretch, stretch.start, shapes, ())

    def forward_backward(
        params: Params, stats: Stats, blobs: Blobs, key: jax.Array, top_diffs: Blobs
    ) -> tuple[Blobs, Stats, jax.Array, Params]:
        (values, stats, loss), (gradients, _) = both(
            params, stats, blobs, key, {}, top_diffs, {}, None
        )
        return {name: values[name] for name in wanted}, stats, loss, gradients

    return forward_backward


def _make_both(
    net: Net,
    plan: BackwardPlan,
    stretch: Stretch,
    start: int,
    shapes: Mapping[str, Shape],
    wanted: Collection[str],
) -> Callable[
    [Params, Stats, Blobs, jax.Array, HostTops, Blobs, Blobs, Before | None],
    tuple[tuple[Blobs, Stats, jax.Array], tuple[Params, Blobs]],
]:
    gets, open_tops = reached(net, plan, start, stretch.stop)
    tapped = gets & frozenset(wanted)

    def run_layer(
        index: int,
        params: Params,
        stats: Stats,
        blobs: Blobs,
        key: jax.Array,
        host_tops: HostTops,
    ) -> Blobs:
        if index in host_tops:
            return _replay_layer(net, index, params, stats, blobs, host_tops[index])
        return _run_layer(net, index, params, stats, blobs, key, stretch.given)

    def both(
        params: Params,
        stats: Stats,
        blobs: Blobs,
        key: jax.Array,
        host_tops: HostTops,
        top_diffs: Blobs,
        overrides: Blobs,
        before: Before | None,
    ) -> tuple[tuple[Blobs, Stats, jax.Array], tuple[Params, Blobs]]:
        old_params, old_stats, old_blobs = before or (params, stats, blobs)
        held = {layer: dict(arrays) for layer, arrays in old_stats.items()}
        entering = dict(old_blobs)
        for index in range(stretch.start, start):
            entering |= run_layer(index, old_params, held, entering, key, host_tops)
        olds: dict[int, Blobs] = {}
        if before is not None:
            values = dict(entering)
            for index in range(start, stretch.stop):
                olds[index] = run_layer(index, old_params, held, values, key, host_tops)
                values |= olds[index]
            made = makes(net, stretch)
            entering |= {name: v for name, v in blobs.items() if name not in made}
            held = {layer: dict(arrays) for layer, arrays in stats.items()}

        def objective(
            params: Params, taps: Blobs
        ) -> tuple[jax.Array, tuple[Blobs, Stats, jax.Array]]:
            values = {
                name: value + taps[name] if name in taps else value
                for name, value in entering.items()
            }
            seen = set(entering)
            now = {layer: dict(arrays) for layer, arrays in held.items()}
            loss = jnp.zeros((), jnp.float32)
            for index in range(start, stretch.stop):
                node = net.graph.nodes[index]
                needs = plan.bottoms[index]
                bottoms = dict(values)
                for bottom, need in zip(node.bottoms, needs, strict=True):
                    if not (need and plan.layers[index]):
                        bottoms[bottom] = jax.lax.stop_gradient(bottoms[bottom])
                own = params if plan.layers[index] else jax.lax.stop_gradient(params)
                tops = run_layer(index, own, now, bottoms, key, host_tops)
                for top, value in tops.items():
                    if not plan.layers[index]:
                        value = jax.lax.stop_gradient(value)
                    if index in olds and not _follows_bottom(node):
                        value += jax.lax.stop_gradient(olds[index][top] - value)
                    if top in overrides and node.slot is None:
                        value += jax.lax.stop_gradient(overrides[top] - value)
                    if top in taps and top not in seen:
                        value = value + taps[top]
                    seen.add(top)
                    values[top] = value
                for top, weight in zip(node.tops, node.loss_weights, strict=True):
                    if weight:
                        loss += weight * jnp.sum(values[top])
            total = jnp.zeros((), jnp.float32)
            for top in open_tops:
                total += jnp.vdot(values[top], top_diffs[top])
            return total, (values, now, loss)

        taps = {name: jnp.zeros(shapes[name], jnp.float32) for name in tapped}
        gradients, made = jax.grad(objective, argnums=(0, 1), has_aux=True)(
            params, taps
        )
        return made, gradients

    return both


def _follows_bottom(node: Node) -> bool:
    """Returns whether a layer's tops show at once what is written to its bottom.

    Python layers' tops are given anyway.
    """
    return node.slot is not None or node.layer.type in ("Split", "Flatten", "Reshape")


def _nodes(net: Net, start: int, stop: int) -> list[tuple[Node, LayerCall | None]]:
    return list(zip(net.graph.nodes, net.calls, strict=True))[start:stop]


def _run_layer(
    net: Net,
    index: int,
    params: Params,
    stats: Stats,
    blobs: Blobs,
    key: jax.Array,
    given: frozenset[str],
) -> Blobs:
    """Returns a layer's tops; its new statistics go into `stats`."""
    node, call = net.graph.nodes[index], net.calls[index]
    if call is None or (node.tops and given.issuperset(node.tops)):
        return {}
    bottoms = [blobs[name] for name in node.bottoms]
    tops, new_stats = call.run(*call.arrays(params, stats), bottoms, key)
    for blob, value in new_stats.items():
        layer, owned = _owners(net).get((node.key, blob), (node.key, blob))
        stats[layer][owned] = value.reshape(stats[layer][owned].shape)
    return {
        top: value
        for top, value in zip(node.tops, tops, strict=True)
        if top not in given
    }


def _replay_layer(
    net: Net,
    index: int,
    params: Params,
    stats: Stats,
    blobs: Blobs,
    tops: tuple[jax.Array, ...],
) -> Blobs:
    """Returns the tops that a Python layer gave, with its backward as gradient."""
    node, call = net.graph.nodes[index], net.calls[index]
    assert call is not None
    assert node.slot is not None
    if not node.tops:
        return {}
    own, _ = call.arrays(params, stats)
    bottoms = tuple(blobs[name] for name in node.bottoms)
    given = attach_gradient(node.slot.value, tops, bottoms, tuple(own.values()))
    return dict(zip(node.tops, given, strict=True))


def _owners(net: Net) -> dict[tuple[str, str], tuple[str, str]]:
    return {(info.layer, info.blob): info.owner for info in net.params}
