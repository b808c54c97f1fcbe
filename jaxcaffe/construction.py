"""What Caffe logs while it makes a net: its text, its layers, their shapes.

Follows the messages of caffe/src/caffe/net.cpp, Init; data.messages has those of the
data layers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence

from jaxcaffe.data.messages import open_lines, setup_lines
from jaxcaffe.data.pipeline import Feed
from jaxcaffe.log import CONSTRUCTION
from jaxcaffe.net import filter as net_filter
from jaxcaffe.net.backward import plan_backward
from jaxcaffe.net.weights import layer_infos
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import format_message
from jaxcaffe.spec import Net, Node, ParamInfo

logger = logging.getLogger(CONSTRUCTION)

_FLOAT_BYTES = 4


def log_filtering(net: caffe_pb2.NetParameter, state: caffe_pb2.NetState) -> None:
    """Logs which rules keep layers out, and the text of what is left.

    Args:
      net: an upgraded net.
      state: what it is filtered by; see `net.filter.filter_net`.

    Raises:
      PrototxtError: a layer has both include and exclude rules.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    for line in net_filter.filter_lines(net, state):
        logger.info("%s", line)
    filtered, _ = net_filter.filter_net(net, state)
    text = format_message(filtered).rstrip()
    logger.info("Initializing net from parameters: \n%s", text)


def log_construction(net: Net, feeds: Sequence[Feed] = ()) -> None:
    """Logs how a net is made, layer by layer, once it is made.

    Args:
      net: the whole net.
      feeds: its open data layers.
    """
    if logger.isEnabledFor(logging.INFO):
        for line in construction_lines(net, feeds):
            logger.info("%s", line)


def construction_lines(net: Net, feeds: Sequence[Feed] = ()) -> Iterator[str]:
    """Yields what Caffe logs between a net's text and its end.

    "Memory required for data" counts the values of all tops as Caffe does, 4 bytes
    each, those of layers that work in place too. XLA takes less: it reuses what no
    later layer needs.

    Source: caffe/src/caffe/net.cpp, Init, AppendTop, AppendBottom and AppendParam.
    Differs: no line for the Softmax that Caffe makes within SoftmaxWithLoss.
    """
    opened = {feed.name: feed for feed in feeds}
    infos = layer_infos(net)
    names = {node.key: node.layer.name for node in net.graph.nodes}
    memory = 0
    for node in net.graph.nodes:
        name = node.layer.name
        feed = opened.get(name)
        yield f"Creating layer {name}"
        yield from open_lines(feed) if feed else ()
        yield f"Creating Layer {name}"
        yield from (f"{name} <- {bottom}" for bottom in node.bottoms)
        for i, top in enumerate(node.tops):
            in_place = i < len(node.bottoms) and node.bottoms[i] == top
            yield f"{name} -> {top}" + (" (in-place)" if in_place else "")
        if feed:
            yield from setup_lines(feed, net.structs[node.tops[0]].shape)
        yield f"Setting up {name}"
        for top, weight in zip(node.tops, node.loss_weights, strict=True):
            shape = net.structs[top].shape
            memory += math.prod(shape)
            yield f"Top shape: {_show_shape(shape)}"
            if weight:
                yield f"    with loss weight {weight:g}"
        yield f"Memory required for data: {memory * _FLOAT_BYTES}"
        yield from _sharing_lines(node, infos, names)
    for node, needed in zip(
        reversed(net.graph.nodes), reversed(plan_backward(net).layers), strict=True
    ):
        verb = "needs" if needed else "does not need"
        yield f"{node.layer.name} {verb} backward computation."
    yield from (f"This network produces output {name}" for name in net.graph.outputs)
    yield "Network initialization done."


def _sharing_lines(
    node: Node, infos: dict[str, tuple[ParamInfo, ...]], names: dict[str, str]
) -> Iterator[str]:
    for index, info in enumerate(infos.get(node.key, ())):
        layer, blob = info.owner
        if layer == node.key or layer not in infos:
            continue
        position = [other.blob for other in infos[layer]].index(blob)
        yield (
            f"Sharing parameters '{node.layer.param[index].name}' owned by layer "
            f"'{names[layer]}', param index {position}"
        )


def _show_shape(shape: Sequence[int]) -> str:
    return "".join(f"{length} " for length in shape) + f"({math.prod(shape)})"
