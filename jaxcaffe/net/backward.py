"""Which layers and bottoms of a net get a backward pass at all.

Follows caffe/src/caffe/net.cpp, Init and AppendBottom.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxcaffe.layers import registry
from jaxcaffe.net.weights import layer_infos
from jaxcaffe.spec import Net, Node


class BackwardPlan(NamedTuple):
    """What the backward pass visits; one entry per node of the graph."""

    layers: tuple[bool, ...]  # the layer runs backward
    bottoms: tuple[tuple[bool, ...], ...]  # per bottom: it gets a gradient
    params: tuple[tuple[bool, ...], ...]  # per learned blob: likewise


def plan_backward(net: Net) -> BackwardPlan:
    """Finds what Caffe would run backward through.

    A layer needs it if it learns, or a layer below it does, and a loss lies above it;
    force_backward makes all of them need it.

    Args:
      net: a translated net.

    Source: caffe/src/caffe/net.cpp, Init and AppendBottom. Differs: none.
    """
    graph = net.graph
    infos = layer_infos(net)
    wanted: dict[str, bool] = {}  # blob -> something below it learns
    layers: list[bool] = []
    bottoms: list[list[bool]] = []
    params: list[tuple[bool, ...]] = []
    for node in graph.nodes:
        own = infos.get(node.key, ())
        params.append(
            tuple(
                not info.is_stat
                and (i >= len(node.layer.param) or node.layer.param[i].lr_mult != 0)
                for i, info in enumerate(own)
            )
        )
        stated = node.layer.propagate_down
        bottoms.append(
            [
                stated[i] if stated else wanted.get(bottom, False)
                for i, bottom in enumerate(node.bottoms)
            ]
        )
        need = any(params[-1]) or any(wanted.get(b, False) for b in node.bottoms)
        layers.append(need)
        if need:
            wanted.update(dict.fromkeys(node.tops, True))

    _drop_what_no_loss_needs(graph.nodes, layers, bottoms)
    if graph.force_backward:
        for index, node in enumerate(graph.nodes):
            kind = registry.lookup(node.layer.type)
            assert kind is not None, node.layer.type
            layers[index] = True
            bottoms[index] = [
                need or i not in kind.no_gradient
                for i, need in enumerate(bottoms[index])
            ]
            params[index] = (True,) * len(params[index])
    return BackwardPlan(
        tuple(layers), tuple(tuple(needs) for needs in bottoms), tuple(params)
    )


def _drop_what_no_loss_needs(
    nodes: tuple[Node, ...], layers: list[bool], bottoms: list[list[bool]]
) -> None:
    under_loss: set[str] = set()
    skipped: set[str] = set()
    for index in reversed(range(len(nodes))):
        node = nodes[index]
        contributes = any(node.loss_weights) or any(t in under_loss for t in node.tops)
        if layers[index] and all(top in skipped for top in node.tops):
            layers[index] = False
            bottoms[index] = [False] * len(node.bottoms)
        if not contributes:
            layers[index] = False
            bottoms[index] = [False] * len(node.bottoms)
        else:
            under_loss.update(node.bottoms)
        skipped.update(
            bottom
            for bottom, need in zip(node.bottoms, bottoms[index], strict=True)
            if not need
        )
