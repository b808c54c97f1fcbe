"""Times the layers of a net one by one, forward and backward.

Follows the time command of caffe/tools/caffe.cpp.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcaffe.net.backward import plan_backward
from jaxcaffe.net.weights import layer_infos
from jaxcaffe.profiling.timing import time_call
from jaxcaffe.spec import Blobs, LayerCall, Net, Params, Stats


class LayerTime(NamedTuple):
    """Mean durations of one layer, in ms."""

    name: str
    forward: float
    backward: float  # 0 where training finds no gradient


class Gradients(NamedTuple):
    """What one layer's backward pass finds gradients of."""

    blobs: tuple[str, ...]  # learned ones, by name
    bottoms: tuple[int, ...]  # by number


def time_layers(
    net: Net,
    params: Params,
    stats: Stats,
    feeds: Blobs,
    key: jax.Array,
    iterations: int,
) -> Iterator[LayerTime]:
    """Runs the net layer by layer and times each, compiled by itself.

    Bottoms are what the layers before really made; the gradients that come back are
    ones. Backward does not compute forward again: what it needs of it is kept, as in
    Caffe. Gradients go where training sends them; see `plan_gradients`.

    Args:
      net: a translated net.
      params: of the net.
      stats: of the net.
      feeds: float32 tops of the feed layers.
      key: of this forward pass.
      iterations: calls that a mean is taken over.

    Yields:
      One per layer, in file order; feeds take 0 ms.

    Source: caffe/tools/caffe.cpp, time. Differs: all iterations of one layer come
    before the next layer; layers that training does not run backward take 0 ms, where
    Caffe times the gradients of their blobs.
    """
    blobs = dict(feeds)
    gradients = plan_gradients(net)
    last_use = {
        bottom: index
        for index, node in enumerate(net.graph.nodes)
        for bottom in node.bottoms
    }
    for index, (node, call) in enumerate(zip(net.graph.nodes, net.calls, strict=True)):
        if call is None:
            yield LayerTime(node.layer.name, 0.0, 0.0)
            continue
        bottoms = [blobs[name] for name in node.bottoms]
        own = call.arrays(params, stats)
        forward = jax.jit(call.run)
        args = (*own, bottoms, key)
        tops, _ = forward(*args)
        forward_time = time_call(functools.partial(forward, *args), iterations)
        backward = _make_backward(call, gradients[index], args)
        yield LayerTime(
            node.layer.name,
            forward_time,
            time_call(backward, iterations) if backward else 0.0,
        )
        blobs.update(zip(node.tops, tops, strict=True))
        for name in node.bottoms:
            if last_use[name] == index and name not in node.tops:
                blobs.pop(name, None)


def plan_gradients(net: Net) -> list[Gradients]:
    """Returns, per layer, what the timed backward pass finds gradients of.

    That is what training does; in a net without a loss, what it would do with the
    outputs as losses, for deploy nets are timed too.
    """
    nodes = net.graph.nodes
    if not any(any(node.loss_weights) for node in nodes):
        outputs = set(net.graph.outputs)
        nodes = tuple(
            node._replace(loss_weights=tuple(float(t in outputs) for t in node.tops))
            for node in nodes
        )
    plan = plan_backward(net._replace(graph=net.graph._replace(nodes=nodes)))
    infos = layer_infos(net)
    found = []
    for index, node in enumerate(nodes):
        if not plan.layers[index]:
            found.append(Gradients((), ()))
            continue
        own = zip(infos.get(node.key, ()), plan.params[index], strict=True)
        found.append(
            Gradients(
                tuple(i.blob for i, need in own if need and not i.is_stat),
                tuple(i for i, need in enumerate(plan.bottoms[index]) if need),
            )
        )
    return found


def _make_backward(
    call: LayerCall, gradients: Gradients, args: tuple[Any, ...]
) -> Callable[[], Any] | None:
    """Returns a call that gives the layer's gradients, or None if it has none."""
    own_params, own_stats, bottoms, key = args
    learned, followed = gradients
    if not learned and not followed:
        return None

    def run(moving: tuple[Blobs, list[jax.Array]], fixed: Any) -> tuple[Any, ...]:
        params, stats, bottoms, key = fixed
        bottoms = list(bottoms)
        for index, bottom in zip(followed, moving[1], strict=True):
            bottoms[index] = bottom
        return call.run({**params, **moving[0]}, stats, bottoms, key)[0]

    moving = (
        {name: own_params[name] for name in learned},
        [bottoms[index] for index in followed],
    )
    fixed = (own_params, own_stats, bottoms, key)
    make_pull = jax.jit(lambda moving, fixed: jax.vjp(lambda m: run(m, fixed), moving))
    tops, pull = make_pull(moving, fixed)
    slopes = tuple(jnp.ones_like(top) for top in tops)
    leaves, tree = jax.tree.flatten(pull)
    # Which platform's form of an operation runs is kept as a number too. It must be
    # known to the compiler, or it makes a choice for run time, which runs slowly.
    known = {
        index: np.asarray(leaf)
        for index, leaf in enumerate(leaves)
        if leaf.ndim == 0 and jnp.issubdtype(leaf.dtype, jnp.integer)
    }

    def call_back(leaves: list[jax.Array], slopes: tuple[jax.Array, ...]) -> Any:
        whole = [known.get(index, leaf) for index, leaf in enumerate(leaves)]
        return jax.tree.unflatten(tree, whole)(slopes)

    return functools.partial(jax.jit(call_back), leaves, slopes)
