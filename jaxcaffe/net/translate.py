"""Turns a graph into pure functions that run its layers in file order.

Follows caffe/src/caffe/net.cpp, Init and ForwardFromTo.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcaffe.errors import plural
from jaxcaffe.layers import registry
from jaxcaffe.net.graph import layer_error
from jaxcaffe.net.layer import Layer, build_layer
from jaxcaffe.net.pairs import find_pairs, make_pair
from jaxcaffe.net.params import build_params, follow_trained
from jaxcaffe.spec import (
    Blobs,
    Graph,
    LayerCall,
    Net,
    NetOutput,
    Node,
    ParamInfo,
    Params,
    Shape,
    Stats,
    Structs,
)


class _Leaf(NamedTuple):
    """Where a layer finds one of its blobs."""

    layer: str
    blob: str
    shape: Shape  # as this layer sees it; under PERMISSIVE the owner's may differ


_Leaves = dict[str, _Leaf]


def build_net(
    graph: Graph, feed_structs: Structs, trained: Sequence[ParamInfo] = ()
) -> Net:
    """Builds every layer of a graph and joins them into pure functions.

    `init(key)` fills the blobs; the key of a layer depends on its name alone, so that
    one more layer leaves the others' weights as they are. `apply(params, stats, feeds,
    key)` runs all layers and gives loss = sum over tops of loss_weight * sum(top).
    Both can be compiled and look at nothing but their arguments. Layers of `params`
    and `stats` that the net lacks are passed over, so a test net runs on the arrays of
    its train net.

    A bottom with propagate_down false gets no gradient through that layer, and a blob
    with lr_mult 0 none at all, unless the file says force_backward.

    Args:
      graph: what build_graph gives.
      feed_structs: shape and dtype of each top of the feed layers. Those of `Input`
        layers may be left out: input_param gives them.
      trained: the blobs of the net whose trees this one runs on, for a test net; its
        `init` then makes the others alone.

    Returns:
      The net; `structs` holds the last value's shape where layers work in place.

    Raises:
      PrototxtError: a layer refuses its parameters or bottoms, a feed has no shape, or
        params are shared wrongly, or are not those of the trained net.

    Source: caffe/src/caffe/net.cpp, Init and ForwardFromTo. Differs: a loss that other
    layers use too keeps its own gradient, which Caffe overwrites.
    """
    structs: dict[str, jax.ShapeDtypeStruct] = {}
    layers: list[Layer | None] = []
    occurrences: Counter[str] = Counter()
    for node in graph.nodes:
        name = node.layer.name
        if _is_feed(node):
            structs.update(_build_feed_structs(node, feed_structs))
            layers.append(None)
        else:
            bottoms = [structs[bottom] for bottom in node.bottoms]
            layer = build_layer(node, bottoms, occurrences[name], graph.force_backward)
            structs.update(zip(node.tops, layer.tops, strict=True))
            layers.append(layer)
        occurrences[name] += 1

    infos = build_params(
        graph.nodes, [() if layer is None else layer.blobs for layer in layers]
    )
    if trained:
        infos = follow_trained(infos, trained, graph.nodes)
    owners = {(info.layer, info.blob): info.owner for info in infos}
    known = {info.owner for info in trained}
    params_leaves = [
        _build_leaves(la, la.params, owners) if la else {} for la in layers
    ]
    stats_leaves = [_build_leaves(la, la.stats, owners) if la else {} for la in layers]
    calls = tuple(
        LayerCall(_make_arrays(*leaves), layer.run) if layer else None
        for layer, *leaves in zip(layers, params_leaves, stats_leaves, strict=True)
    )

    pairs = {
        norm: (
            scale,
            make_pair(graph.nodes[norm], graph.nodes[scale], graph.force_backward),
        )
        for norm, scale in find_pairs(
            graph, [list(la.params.values()) if la else [] for la in layers]
        ).items()
    }

    def init(key: jax.Array) -> tuple[Params, Stats]:
        params: Params = {}
        stats: Stats = {}
        for layer in filter(None, layers):
            name = layer.node.key
            for tree, blobs in zip((params, stats), layer.init(key), strict=True):
                for blob, array in blobs.items():
                    leaf = owners.get((name, blob), (name, blob))
                    if leaf == (name, blob) and leaf not in known:
                        tree.setdefault(name, {})[blob] = array
        return params, stats

    def apply(params: Params, stats: Stats, feeds: Blobs, key: jax.Array) -> NetOutput:
        blobs: Blobs = {}
        loss = jnp.zeros((), jnp.float32)
        stats = {name: dict(arrays) for name, arrays in stats.items()}
        paired: dict[int, jax.Array] = {}  # a Scale's node -> its top
        steps = zip(graph.nodes, calls, stats_leaves, strict=True)
        for index, (node, call, leaves) in enumerate(steps):
            if call is None:
                blobs.update(_pick_feeds(node, feeds))
                continue
            bottoms = [blobs[name] for name in node.bottoms]
            if index in pairs:
                ahead, run = pairs[index]
                factors = _gather(params_leaves[ahead], params)
                (top, paired[ahead]), new_stats = run(
                    factors, _gather(leaves, stats), bottoms[0]
                )
                tops: tuple[jax.Array, ...] = (top,)
            elif index in paired:
                tops, new_stats = (paired[index],), {}
            else:
                tops, new_stats = call.run(*call.arrays(params, stats), bottoms, key)
            for blob, leaf in leaves.items():
                owner = stats[leaf.layer]
                owner[leaf.blob] = new_stats[blob].reshape(owner[leaf.blob].shape)
            blobs.update(zip(node.tops, tops, strict=True))
            for top, loss_weight in zip(tops, node.loss_weights, strict=True):
                if loss_weight:
                    loss += loss_weight * jnp.sum(top)
        return NetOutput(blobs, loss, stats)

    return Net(graph, structs, infos, init, apply, calls)


def _is_feed(node: Node) -> bool:
    kind = registry.lookup(node.layer.type)
    assert kind is not None, node.layer.type
    return kind.module is None


def _build_feed_structs(
    node: Node, feed_structs: Structs
) -> dict[str, jax.ShapeDtypeStruct]:
    structs = {top: feed_structs[top] for top in node.tops if top in feed_structs}
    missing = [top for top in node.tops if top not in structs]
    shapes = [tuple(shape.dim) for shape in node.layer.input_param.shape]
    if missing and node.layer.type == "Input" and shapes:
        if len(shapes) not in (1, len(node.tops)):
            raise layer_error(
                node,
                f"input_param has {plural(len(shapes), 'shape')} for "
                f"{plural(len(node.tops), 'top')}",
                "one shape, or one per top",
            )
        shapes = shapes * len(node.tops) if len(shapes) == 1 else shapes
        given = dict(zip(node.tops, shapes, strict=True))
        structs |= {t: jax.ShapeDtypeStruct(given[t], jnp.float32) for t in missing}
    elif missing:
        raise layer_error(
            node,
            f"the shape of top {', '.join(missing)} is not known",
            "input_param { shape { dim: ... } }, or data for this layer",
        )
    return structs


def _pick_feeds(node: Node, feeds: Blobs) -> Blobs:
    for top in node.tops:
        if top not in feeds:
            raise KeyError(f'nothing feeds top "{top}" of layer "{node.layer.name}"')
    return {top: jnp.asarray(feeds[top], jnp.float32) for top in node.tops}


def _build_leaves(
    layer: Layer,
    shapes: dict[str, Shape],
    owners: dict[tuple[str, str], tuple[str, str]],
) -> _Leaves:
    name = layer.node.key
    return {
        blob: _Leaf(*owners.get((name, blob), (name, blob)), shape)
        for blob, shape in shapes.items()
    }


def _make_arrays(
    params_leaves: _Leaves, stats_leaves: _Leaves
) -> Callable[[Params, Stats], tuple[Blobs, Blobs]]:
    def arrays(params: Params, stats: Stats) -> tuple[Blobs, Blobs]:
        return _gather(params_leaves, params), _gather(stats_leaves, stats)

    return arrays


def _gather(leaves: _Leaves, tree: Params | Stats) -> Blobs:
    blobs = {}
    for blob, leaf in leaves.items():
        if leaf.blob not in tree.get(leaf.layer, ()):
            raise KeyError(f'there is no "{leaf.blob}" of layer "{leaf.layer}"')
        blobs[blob] = tree[leaf.layer][leaf.blob].reshape(leaf.shape)
    return blobs
