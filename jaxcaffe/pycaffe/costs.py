"""What each layer of a net makes and needs: shapes, learned values, operations.

Follows caffe/src/caffe/net.cpp, Init, which logs shapes and memory layer by layer.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from jaxcaffe.errors import DataError
from jaxcaffe.net import graph, translate
from jaxcaffe.net.filter import filter_net
from jaxcaffe.profiling.from_net import feed_structs
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Net, Node, Shape


class LayerCost(NamedTuple):
    """What one layer makes and needs in a forward pass of its net's whole batch."""

    shapes: tuple[Shape, ...]  # of its tops
    params: int  # learned values of its own, shared ones counted at their owner
    flops: int  # products with weights and their sums, each counted as one


def read_costs(
    caffe_net: caffe_pb2.NetParameter,
    phase: int | None = None,
    data_shape: Shape | None = None,
) -> dict[int, LayerCost]:
    """Returns what the layers of a net make and need, by their number in the net.

    Args:
      caffe_net: in today's form.
      phase: caffe_pb2.TRAIN or caffe_pb2.TEST; None for both, where a layer of both
        phases is looked at as in training.
      data_shape: (C, H, W) of one record of data layers; None to look at their data.

    Raises:
      CaffeError: the net or its data are wrong.
    """
    phases = [caffe_pb2.TEST, caffe_pb2.TRAIN] if phase is None else [phase]
    costs: dict[int, LayerCost] = {}
    for one in phases:
        state = caffe_pb2.NetState(phase=caffe_pb2.Phase.Name(one))
        built = graph.build_graph(caffe_net, state)
        try:
            structs = feed_structs(built, one, data_shape)
        except DataError as error:
            raise DataError(
                f"{error.__cause__ or error} Or: data_shape=(C, H, W)."
            ) from error
        net = translate.build_net(built, structs)
        _, kept = filter_net(caffe_net, state)
        costs.update(_match(caffe_net, kept, net))
    return costs


def _match(
    caffe_net: caffe_pb2.NetParameter, kept: tuple[int, ...], net: Net
) -> dict[int, LayerCost]:
    # Splits that Caffe inserts stand between the layers of the file.
    nodes = iter(net.graph.nodes)
    costs = {}
    for index in kept:
        layer = caffe_net.layer[index]
        node = next(n for n in nodes if n.layer.name == layer.name)
        costs[index] = _read_cost(net, node)
    return costs


def _read_cost(net: Net, node: Node) -> LayerCost:
    infos = [i for i in net.params if i.layer == node.key and not i.is_stat]
    own = sum(math.prod(i.shape) for i in infos if i.owner == (i.layer, i.blob))
    shapes = tuple(net.structs[top].shape for top in node.tops)
    weights = [info.shape for info in infos if len(info.shape) > 1]
    bottoms = [net.structs[bottom].shape for bottom in node.bottoms]
    return LayerCost(
        shapes, own, _count_flops(node.layer.type, weights, bottoms, shapes)
    )


def _count_flops(
    type_: str, weights: list[Shape], bottoms: list[Shape], tops: tuple[Shape, ...]
) -> int:
    """Counts what products with weights take, a multiplication and an addition as 2."""
    if not weights or type_ == "Embed":  # which looks its rows up
        return 0
    values = sum(math.prod(weight) for weight in weights)
    if type_ in ("LSTM", "RNN"):
        steps, streams = bottoms[0][:2]
        return 2 * steps * streams * values
    # A Deconvolution spreads each value of its bottoms over a window; any other weight
    # gathers each value of the tops from one.
    ends = bottoms if type_ == "Deconvolution" else tops
    if type_ == "InnerProduct":
        count, inner = weights[0]
        if tops[0][-1] != count:
            count, inner = inner, count  # transpose
        return 2 * inner * math.prod(tops[0])
    if len(weights[0]) < 3:
        return 0
    return sum(2 * math.prod(end) * values // weights[0][0] for end in ends)
