"""Counts what a net holds and computes: learned values, statistics, multiply-adds.

Follows caffe/src/caffe/net.cpp, Init, which counts memory alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from jaxcaffe.spec import Net, Node, ParamInfo, Shape


class Count(NamedTuple):
    """What a layer or a net holds, and what a forward pass of its batch takes."""

    params: int  # learned values; shared ones count at their owner
    stats: int  # values that forward passes update (BatchNorm)
    multiply_adds: int  # of products with weights; twice as many FLOPs


def count_layers(net: Net) -> tuple[Count, ...]:
    """Returns the count of each layer, one per node of net.graph.

    Multiply-adds are those of convolutions, inner products and recurrent layers: the
    number that papers give as theirs. Biases, BatchNorm, Scale, LRN, pooling and other
    layers without matrices or filters count nothing.

    Args:
      net: of build_net; no arrays are needed.
    """
    return tuple(_count_layer(net, node) for node in net.graph.nodes)


def count_net(net: Net) -> Count:
    """Returns the sums over all layers; see count_layers."""
    layers = count_layers(net)
    return Count(*(sum(column) for column in zip(*layers, strict=True)))


def _count_layer(net: Net, node: Node) -> Count:
    infos = [info for info in net.params if info.layer == node.key]
    own = [info for info in infos if info.owner == (info.layer, info.blob)]
    bottoms = [net.structs[name].shape for name in node.bottoms]
    tops = [net.structs[name].shape for name in node.tops]
    weights = [info.shape for info in infos if not info.is_stat]
    return Count(
        params=_size([info for info in own if not info.is_stat]),
        stats=_size([info for info in own if info.is_stat]),
        multiply_adds=_multiply_adds(node.layer.type, weights, bottoms, tops),
    )


def _size(infos: Sequence[ParamInfo]) -> int:
    return sum(math.prod(info.shape) for info in infos)


def _multiply_adds(
    kind: str, weights: Sequence[Shape], bottoms: Sequence[Shape], tops: Sequence[Shape]
) -> int:
    if kind == "Convolution":  # each value of a top gathers one filter's window
        return sum(math.prod(top) * math.prod(weights[0][1:]) for top in tops)
    if kind == "Deconvolution":  # each value of a bottom spreads over one
        return sum(math.prod(bottom) * math.prod(weights[0][1:]) for bottom in bottoms)
    if kind == "InnerProduct":
        outputs = math.prod(tops[0])
        matrix = math.prod(weights[0])
        num_output = tops[0][-1]
        return outputs * matrix // num_output
    if kind in ("LSTM", "RNN"):  # every matrix once for each step of each stream
        steps, streams = bottoms[0][:2]
        matrices = sum(math.prod(shape) for shape in weights if len(shape) > 1)
        return steps * streams * matrices
    return 0
