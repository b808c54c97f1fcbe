"""Gives each consumer of a blob its own copy, through Split layers.

Follows caffe/src/caffe/util/insert_splits.cpp.
"""

from __future__ import annotations

from collections import Counter

from jaxcaffe.proto import caffe_pb2

_Top = tuple[int, int]  # index of the layer, index of the top within it


def insert_splits(net: caffe_pb2.NetParameter) -> caffe_pb2.NetParameter:
    """Puts a Split layer behind every top with more than one use.

    A use is a bottom of a later layer or a loss_weight other than 0, which moves to
    top 0 of the split. The layer is named `{blob}_{layer}_{top index}_split` and its
    tops `{blob}_{layer}_{top index}_split_{k}`, in the order of their consumers. Each
    write in place makes a new top. Inserting twice changes nothing more.

    Args:
      net: a filtered net; not changed. A bottom that no earlier layer gives is left
        alone, for `graph.build_graph` to report.

    Returns:
      A copy with the splits.

    Source: caffe/src/caffe/util/insert_splits.cpp, InsertSplits. Differs: Caffe clears
    all loss weights of a layer when one of them moves; here that one becomes 0 and the
    others stay, so a loss that another layer consumes is not counted twice.
    """
    return insert_splits_with_origins(net)[0]


def insert_splits_with_origins(
    net: caffe_pb2.NetParameter,
) -> tuple[caffe_pb2.NetParameter, tuple[int, ...]]:
    """Inserts splits and tells where each layer of the result comes from.

    Returns:
      What `insert_splits` gives and, per layer of it, the index in `net` of that layer
      or, for a split, of the layer behind which it stands.
    """
    source_tops, uses = _count_uses(net)
    result = caffe_pb2.NetParameter()
    result.CopyFrom(net)
    del result.layer[:]
    origins = []
    taken: Counter[_Top] = Counter()
    for i, layer in enumerate(net.layer):
        copy = result.layer.add()
        copy.CopyFrom(layer)
        origins.append(i)
        for j, blob in enumerate(layer.bottom):
            top = source_tops.get((i, j))
            if top is not None and uses[top] > 1:
                giver = net.layer[top[0]].name
                copy.bottom[j] = f"{split_name(giver, blob, top[1])}_{taken[top]}"
                taken[top] += 1
        for j, blob in enumerate(layer.top):
            count = uses[i, j]
            if count < 2:
                continue
            split = result.layer.add()
            origins.append(i)
            split.name = split_name(layer.name, blob, j)
            split.type = "Split"
            split.bottom.append(blob)
            split.top.extend(f"{split.name}_{k}" for k in range(count))
            loss_weight = layer.loss_weight[j] if j < len(layer.loss_weight) else 0.0
            if loss_weight:
                split.loss_weight.extend([loss_weight] + [0.0] * (count - 1))
                copy.loss_weight[j] = 0.0
                taken[i, j] += 1
    return result, tuple(origins)


def split_name(layer: str, blob: str, top_index: int) -> str:
    """Returns the name of the split behind a top; its tops append `_{k}`."""
    return f"{blob}_{layer}_{top_index}_split"


def _count_uses(
    net: caffe_pb2.NetParameter,
) -> tuple[dict[tuple[int, int], _Top], Counter[_Top]]:
    last_top: dict[str, _Top] = {}
    source_tops: dict[tuple[int, int], _Top] = {}
    uses: Counter[_Top] = Counter()
    for i, layer in enumerate(net.layer):
        for j, blob in enumerate(layer.bottom):
            if blob in last_top:
                source_tops[i, j] = last_top[blob]
                uses[last_top[blob]] += 1
        for j, blob in enumerate(layer.top):
            last_top[blob] = (i, j)
        for blob, loss_weight in zip(layer.top, layer.loss_weight, strict=False):
            uses[last_top[blob]] += loss_weight != 0
    return source_tops, uses
