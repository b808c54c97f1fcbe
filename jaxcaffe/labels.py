"""How many classes a net has for each label, to check records on the host.

Caffe itself reads beyond the end of a blob for a label that has no class.
"""

from __future__ import annotations

from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Net, Node


def label_limits(net: Net) -> dict[str, tuple[int, int | None]]:
    """Finds the classes that labels of the data layers may name.

    Returns:
      Feed top -> (number of classes, ignore_label or None), for tops that reach the
      label bottom of a layer that counts classes (SoftmaxWithLoss, Accuracy...),
      directly or through splits. Of several such layers the fewest classes count, and
      an ignore_label that any of them has.
    """
    origin: dict[str, str] = {}
    limits: dict[str, tuple[int, int | None]] = {}
    for node in net.graph.nodes:
        if node.layer.type == "Split":
            source = origin.get(node.bottoms[0], node.bottoms[0])
            origin.update(dict.fromkeys(node.tops, source))
        found = _limit(net, node)
        if found is None:
            continue
        classes, ignored = found
        label = origin.get(node.bottoms[1], node.bottoms[1])
        if label in limits:
            before, before_ignored = limits[label]
            classes = min(classes, before)
            ignored = before_ignored if ignored is None else ignored
        limits[label] = (classes, ignored)
    return limits


def _limit(net: Net, node: Node) -> tuple[int, int | None] | None:
    layer = node.layer
    param: caffe_pb2.LossParameter | caffe_pb2.AccuracyParameter = layer.loss_param
    if layer.type == "SoftmaxWithLoss":
        axis = layer.softmax_param.axis
    elif layer.type == "InfogainLoss":
        axis = layer.infogain_loss_param.axis
    elif layer.type in ("HingeLoss", "MultinomialLogisticLoss"):
        axis = 1
    elif layer.type == "Accuracy":
        axis, param = layer.accuracy_param.axis, layer.accuracy_param
    else:
        return None
    ignored = param.ignore_label if param.HasField("ignore_label") else None
    return net.structs[node.bottoms[0]].shape[axis], ignored
