"""Finds which learned blobs are shared and what multiplies their rates.

Follows caffe/src/caffe/net.cpp, AppendParam.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from jaxcaffe.errors import plural
from jaxcaffe.net.graph import layer_error
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Net, Node, ParamInfo, Shape


class LayerBlob(NamedTuple):
    """A blob as its own layer sees it, before any sharing."""

    name: str
    shape: Shape
    is_stat: bool


def build_params(
    nodes: Sequence[Node], blobs: Sequence[Sequence[LayerBlob]]
) -> tuple[ParamInfo, ...]:
    """Lists the learned blobs of a net in Caffe's order, each with its owner.

    Blobs whose `param` has the same name are one; the first layer that has it owns it.
    Their multipliers are the ones that any of them states, 1 if none does.

    Args:
      nodes: the layers of a graph.
      blobs: per node its blobs in Caffe's order.

    Raises:
      PrototxtError: more `param` than blobs; shared blobs of other shapes (STRICT) or
        sizes (PERMISSIVE), or that state different multipliers; an lr_mult other than
        0 for statistics.

    Source: caffe/src/caffe/net.cpp, Init and AppendParam. Differs: none.
    """
    infos: list[ParamInfo] = []
    keys: set[str] = set()
    owned: dict[str, int] = {}  # param name -> index of the owner's info
    stated: dict[str, dict[str, tuple[float, Node]]] = {}
    for node, layer_blobs in zip(nodes, blobs, strict=True):
        layer = node.layer
        if len(layer.param) > len(layer_blobs):
            raise layer_error(
                node,
                f"{len(layer.param)} param for {plural(len(layer_blobs), 'blob')}",
                "at most one param per blob"
                + (
                    f" ({', '.join(b.name for b in layer_blobs)})"
                    if layer_blobs
                    else ""
                ),
            )
        if layer_blobs:
            if node.key in keys:
                raise layer_error(
                    node,
                    "another layer of this name has blobs, and this type's are not "
                    "known beforehand",
                    "a name of its own; to share weights, param { name }",
                )
            keys.add(node.key)
        for i, blob in enumerate(layer_blobs):
            spec = layer.param[i] if i < len(layer.param) else caffe_pb2.ParamSpec()
            # lr_mult 1 is the default, so a bare `param { }` counts as stating it.
            if blob.is_stat and i < len(layer.param) and spec.lr_mult != 0:
                raise layer_error(
                    node,
                    f'lr_mult is {spec.lr_mult:g} for "{blob.name}", which the forward '
                    "pass computes and no solver may change",
                    "lr_mult: 0",
                )
            infos.append(
                ParamInfo(
                    layer=node.key,
                    blob=blob.name,
                    owner=(node.key, blob.name),
                    shape=blob.shape,
                    lr_mult=0.0 if blob.is_stat else spec.lr_mult,
                    decay_mult=0.0 if blob.is_stat else spec.decay_mult,
                    is_stat=blob.is_stat,
                )
            )
            if not spec.name:
                continue
            if spec.name not in owned:
                owned[spec.name] = len(infos) - 1
                stated[spec.name] = {}
            else:
                owner = infos[owned[spec.name]]
                _check_share(node, spec, infos[-1], owner)
                infos[-1] = infos[-1]._replace(owner=owner.owner)
            _merge_mults(node, spec, stated[spec.name])
    by_owner = {info.owner: info for info in infos if is_owner(info)}
    for name, index in owned.items():
        owner = infos[index]
        if not owner.is_stat:
            mults = {field: value for field, (value, _) in stated[name].items()}
            by_owner[owner.owner] = owner._replace(
                lr_mult=mults.get("lr_mult", owner.lr_mult),
                decay_mult=mults.get("decay_mult", owner.decay_mult),
            )
    return tuple(
        info._replace(
            lr_mult=by_owner[info.owner].lr_mult,
            decay_mult=by_owner[info.owner].decay_mult,
        )
        for info in infos
    )


def follow_trained(
    infos: Sequence[ParamInfo], trained: Sequence[ParamInfo], nodes: Sequence[Node]
) -> tuple[ParamInfo, ...]:
    """Makes a test net's blobs those of the net that is trained, by layer name.

    A layer that only the test net has keeps blobs of its own, unless it shares them
    by name with one that both nets have.

    Args:
      infos: the test net's, from build_params.
      trained: the train net's.
      nodes: the layers of the test net.

    Returns:
      infos whose `owner` names a leaf of the train net's trees, where it has one.

    Raises:
      PrototxtError: a layer has another number of blobs in the two nets, or a blob
        another shape.

    Source: caffe/src/caffe/net.cpp, ShareTrainedLayersWith. Differs: in Caffe a layer
    that only the test net has keeps its random weights even if it shares them by name.
    """
    theirs = _by_layer(trained)
    leaves: dict[tuple[str, str], tuple[str, str]] = {}  # blob -> the train net's leaf
    groups: dict[tuple[str, str], tuple[str, str]] = {}  # owner here -> likewise
    by_key = {node.key: node for node in nodes}
    for layer, ours in _by_layer(infos).items():
        if layer not in theirs:
            continue
        _check_alike(by_key[layer], ours, theirs[layer])
        for info, other in zip(ours, theirs[layer], strict=True):
            leaves[info.layer, info.blob] = other.owner
            groups.setdefault(info.owner, other.owner)
    return tuple(
        info._replace(
            owner=leaves.get(
                (info.layer, info.blob), groups.get(info.owner, info.owner)
            )
        )
        for info in infos
    )


def is_owner(info: ParamInfo) -> bool:
    """Returns whether the blob has a leaf of its own, in Params or Stats."""
    return info.owner == (info.layer, info.blob)


def lr_mults(net: Net) -> dict[str, dict[str, float]]:
    """Returns what multiplies the rate of each leaf, as a tree like Params."""
    return _tree(net, lambda info: info.lr_mult)


def decay_mults(net: Net) -> dict[str, dict[str, float]]:
    """Returns what multiplies the weight decay of each leaf, as a tree like Params."""
    return _tree(net, lambda info: info.decay_mult)


def trainable(net: Net) -> dict[str, dict[str, bool]]:
    """Returns which leaves a solver changes (lr_mult not 0), as a tree like Params.

    The gradients of `net.apply` are already zero where Caffe makes none, so a solver
    needs this only to save work or memory.
    """
    return _tree(net, lambda info: info.lr_mult != 0)


_Value = TypeVar("_Value")


def _tree(
    net: Net, value: Callable[[ParamInfo], _Value]
) -> dict[str, dict[str, _Value]]:
    tree: dict[str, dict[str, _Value]] = {}
    for info in net.params:
        if is_owner(info) and not info.is_stat:
            tree.setdefault(info.layer, {})[info.blob] = value(info)
    return tree


def _by_layer(infos: Sequence[ParamInfo]) -> dict[str, list[ParamInfo]]:
    layers: dict[str, list[ParamInfo]] = {}
    for info in infos:
        layers.setdefault(info.layer, []).append(info)
    return layers


def _check_alike(
    node: Node, ours: Sequence[ParamInfo], theirs: Sequence[ParamInfo]
) -> None:
    def describe(infos: Sequence[ParamInfo]) -> str:
        return ", ".join(f"{info.blob} {info.shape}" for info in infos)

    if [(i.shape, i.is_stat) for i in ours] != [(i.shape, i.is_stat) for i in theirs]:
        raise layer_error(
            node,
            f"its blobs are {describe(ours)}, but {describe(theirs)} in the net that "
            "is trained",
            "the same blobs in both nets, or another layer name",
        )


def _check_share(
    node: Node, spec: caffe_pb2.ParamSpec, info: ParamInfo, owner: ParamInfo
) -> None:
    theirs = f'blob "{owner.blob}" {owner.shape} of layer "{owner.layer}"'
    problem = (
        f'"{info.blob}" {info.shape} cannot share param "{spec.name}" with {theirs}'
    )
    if info.is_stat != owner.is_stat:
        raise layer_error(
            node,
            f"{problem}: one of them is learned, the other computed",
            "a param name of its own",
        )
    if spec.share_mode == caffe_pb2.ParamSpec.PERMISSIVE:
        if math.prod(info.shape) != math.prod(owner.shape):
            raise layer_error(
                node,
                f"{problem}: {plural(math.prod(info.shape), 'value')}, not "
                f"{math.prod(owner.shape)}",
                "blobs of one size",
            )
    elif info.shape != owner.shape:
        same_size = math.prod(info.shape) == math.prod(owner.shape)
        raise layer_error(
            node,
            f"{problem}: the shapes differ",
            "blobs of one shape"
            + (
                ", or share_mode: PERMISSIVE as they have one size" if same_size else ""
            ),
        )


def _merge_mults(
    node: Node,
    spec: caffe_pb2.ParamSpec,
    stated: dict[str, tuple[float, Node]],
) -> None:
    for field in ("lr_mult", "decay_mult"):
        if not spec.HasField(field):
            continue
        value = getattr(spec, field)
        before, sharer = stated.setdefault(field, (value, node))
        if value != before:
            raise layer_error(
                node,
                f'{field} is {value:g} for param "{spec.name}" but {before:g} in '
                f'layer "{sharer.layer.name}", which shares it',
                f"{field}: {before:g}, or state it once",
            )
