"""Connects the layers of a net: who makes each blob and who uses it.

Follows caffe/src/caffe/net.cpp, Init, AppendTop and AppendBottom, and the checks of
blob counts in caffe/include/caffe/layer.hpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxcaffe.errors import PrototxtError, describe_layer, nearest, plural
from jaxcaffe.layers import registry
from jaxcaffe.net.filter import filter_net, locate_layers
from jaxcaffe.net.splits import insert_splits_with_origins
from jaxcaffe.proto import caffe_pb2, dialects
from jaxcaffe.spec import Graph, Node, Slot

if TYPE_CHECKING:
    from jaxcaffe.proto.text import Source

AUTOMATIC_TOP = "(automatic)"
"""Name of the tops that a loss layer makes when the file names none."""


def build_graph(
    net: caffe_pb2.NetParameter,
    state: caffe_pb2.NetState,
    source: Source | None = None,
) -> Graph:
    """Filters a net, inserts its splits and connects its layers.

    Args:
      net: an upgraded net; not changed.
      state: the caller's phase, level and stages, put over the net's own `state { }`.
      source: where the layers stand, for errors.

    Returns:
      The graph. Each node's layer has its phase filled in; `propagate_down` already
      allows for force_backward and for bottoms that never get a gradient.

    Raises:
      PrototxtError: an unknown layer type or bottom; a wrong number of bottoms, tops,
        loss_weight or propagate_down; a top made twice other than in place, or in place
        by a layer that cannot; include next to exclude rules.

    Source: caffe/src/caffe/net.cpp, Init. Differs: a top that is not named by the file
    may leave its loss_weight out, and `propagate_down: true` for a label, over which
    Caffe aborts in the backward pass, gives no gradient.
    """
    assert not net.layers, "the net has not been upgraded: layers"
    assert not net.input, "the net has not been upgraded: input"
    filtered, kept = filter_net(net, state, source)
    places = locate_layers(net, kept, source)
    split, origins = insert_splits_with_origins(filtered)

    nodes: list[Node] = []
    blobs: list[str] = []
    makers: dict[str, Node] = {}  # blob -> the layer that made it first
    available: set[str] = set()
    names = {layer.name for layer in split.layer}
    taken: set[str] = set()
    for layer, origin in zip(split.layer, origins, strict=True):
        if not layer.HasField("phase"):
            layer.phase = filtered.state.phase
        node = _build_node(layer, places[origin], net.force_backward)
        node = node._replace(key=_unused_key(node, taken, names))
        for i, bottom in enumerate(node.bottoms):
            if bottom not in available:
                raise layer_error(node, *_unknown_bottom(i, bottom, makers, net, kept))
            available.remove(bottom)
        for i, top in enumerate(node.tops):
            in_place = i < len(node.bottoms) and node.bottoms[i] == top
            if top == AUTOMATIC_TOP and i >= len(layer.top):
                blobs.append(top)
                continue
            if top in makers and not in_place:
                raise layer_error(
                    node, *_repeated_top(i, filtered.layer[origin], makers)
                )
            if not in_place:
                blobs.append(top)
                makers[top] = node
            available.add(top)
        nodes.append(node)
    return Graph(
        name=net.name,
        phase=filtered.state.phase,
        nodes=tuple(nodes),
        blobs=tuple(blobs),
        outputs=tuple(sorted(available)),
        force_backward=net.force_backward,
    )


def layer_error(node: Node, problem: str, accepted: str = "") -> PrototxtError:
    """Returns the error that names a node's file, line, layer and type."""
    return PrototxtError(
        describe_layer(node.where, node.layer.name, node.layer.type, problem, accepted)
    )


def _build_node(
    layer: caffe_pb2.LayerParameter, where: str, force_backward: bool
) -> Node:
    node = Node(layer, where, tuple(layer.bottom), tuple(layer.top), (), (), "")
    kind = registry.lookup(layer.type)
    if kind is None:
        raise layer_error(node, *_unknown_type(layer.type))
    if kind.auto_tops:
        missing = max(0, kind.tops[0] - len(node.tops))
        node = node._replace(tops=node.tops + (AUTOMATIC_TOP,) * missing)
    _check_count(node, "bottom", len(node.bottoms), kind.bottoms)
    _check_count(node, "top", len(node.tops), kind.tops)
    if kind.equal_counts and len(node.bottoms) != len(node.tops):
        raise layer_error(
            node,
            f"{plural(len(node.bottoms), 'bottom')} but "
            f"{plural(len(node.tops), 'top')}",
            "as many tops as bottoms",
        )
    if not kind.in_place and set(node.bottoms[:1]) & set(node.tops):
        raise layer_error(
            node,
            f'top "{node.bottoms[0]}" is bottom 0, and {layer.type} does not work in '
            "place",
            "a top of another name",
        )
    return node._replace(
        loss_weights=_loss_weights(node, kind),
        propagate_down=_propagate_down(node, kind, force_backward),
        slot=Slot(where) if kind.host else None,
    )


def _unused_key(node: Node, taken: set[str], names: set[str]) -> str:
    """Returns the layer's key, and enters it if layers of its type have blobs."""
    name = key = node.layer.name
    kind = registry.lookup(node.layer.type)
    if not getattr(kind and kind.module, "blobs", ()):
        return name
    count = 1
    while key in taken or (count > 1 and key in names):
        count += 1
        key = f"{name}#{count}"
    taken.add(key)
    return key


def _unknown_type(type_: str) -> tuple[str, str]:
    forks = dialects.layer_type_forks(type_)
    if not forks:
        problem = f'layer type "{type_}" is not known'
        near = nearest(type_, registry.layer_types())
        return problem, f"{near}; types of your own with config.layers or --layers"
    problem = f'Caffe 1.0 has no layer type "{type_}"; {dialects.tell_forks(forks)}'
    return problem, dialects.type_instead(type_) or "the layer types of Caffe 1.0"


def _check_count(
    node: Node, field: str, count: int, limits: tuple[int, int | None]
) -> None:
    least, most = limits
    if count >= least and (most is None or count <= most):
        return
    accepted = str(least) if least == most else f"{least} to {most}"
    if most is None:
        accepted = f"{least} or more"
    raise layer_error(node, plural(count, field), accepted)


def _loss_weights(node: Node, kind: registry.LayerType) -> tuple[float, ...]:
    loss_weight = tuple(node.layer.loss_weight)
    if not loss_weight:
        first = 1.0 if kind.is_loss else 0.0
        return (first,) * min(1, len(node.tops)) + (0.0,) * (len(node.tops) - 1)
    if len(loss_weight) != len(node.tops):
        raise layer_error(
            node,
            f"loss_weight is given {len(loss_weight)} times for "
            f"{plural(len(node.tops), 'top')}",
            "no loss_weight, or one per top",
        )
    return loss_weight


def _propagate_down(
    node: Node, kind: registry.LayerType, force_backward: bool
) -> tuple[bool, ...]:
    propagate_down = tuple(node.layer.propagate_down)
    if propagate_down and len(propagate_down) != len(node.bottoms):
        raise layer_error(
            node,
            f"propagate_down is given {len(propagate_down)} times for "
            f"{plural(len(node.bottoms), 'bottom')}",
            "no propagate_down, or one per bottom",
        )
    if force_backward or not propagate_down:
        propagate_down = (True,) * len(node.bottoms)
    return tuple(
        down and i not in kind.no_gradient for i, down in enumerate(propagate_down)
    )


def _unknown_bottom(
    index: int,
    bottom: str,
    makers: dict[str, Node],
    net: caffe_pb2.NetParameter,
    kept: tuple[int, ...],
) -> tuple[str, str]:
    problem = f'bottom {index} "{bottom}" is not the top of an earlier layer'
    for i, layer in enumerate(net.layer):
        if bottom in layer.top:
            why = (
                "stands later" if i in kept else "the phase, level or stages leave out"
            )
            problem += f' (it is a top of layer "{layer.name}", which {why})'
            break
    return problem, nearest(bottom, makers) or "an Input or data layer before this one"


def _repeated_top(
    index: int, layer: caffe_pb2.LayerParameter, makers: dict[str, Node]
) -> tuple[str, str]:
    top = layer.top[index]
    maker = makers[top]
    place = f" at {maker.where}" if maker.where else ""
    made = f'layer "{maker.layer.name}"{place} makes'
    if index < len(layer.bottom) and layer.bottom[index] == top:
        return (
            f'it changes in place blob "{top}", which {made} and other layers use',
            "a top of another name",
        )
    return (
        f'top {index} "{top}" is a blob that {made} already',
        f"another name, or the name of bottom {index} to work in place",
    )
