"""BatchNorm of NVIDIA's Caffe, which holds scale and bias too, to and from BVLC's.

Follows src/caffe/layers/batch_norm_layer.cpp and CopyTrainedLayersFrom of
src/caffe/net.cpp in NVIDIA's Caffe 0.17.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jaxcaffe.errors import SnapshotError, describe
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.binary import array_to_blob, blob_to_array
from jaxcaffe.spec import Graph

_BLOBS = 5
_STATISTICS = 3
_LEAST_EPS = 1e-5
# Fields of NVIDIA's BatchNormParameter: scale_filler, bias_filler, scale_bias.
_SCALE_BIAS = bytes([7 << 3, 1])

Weights = dict[str, list[np.ndarray | None]]


def fit_batch_norms(
    graph: Graph, weights: Mapping[str, Sequence[np.ndarray | None]], where: str
) -> Weights:
    """Gives the five blobs of NVIDIA's BatchNorm to BVLC's BatchNorm and its Scale.

    Args:
      graph: the net that the weights go to.
      weights: layer name -> blobs, as read from a file.
      where: the file's path, for errors.

    Returns:
      The weights, with three blobs for each BatchNorm of the net, and scale and bias
      under the name of the Scale layer behind it.

    Raises:
      SnapshotError: no Scale layer with a bias takes its BatchNorm's scale and bias,
        though they change something.
    """
    fitted: Weights = {name: list(blobs) for name, blobs in weights.items()}
    for index, node in enumerate(graph.nodes):
        name = node.layer.name
        blobs = fitted.get(name, [])
        if node.layer.type != "BatchNorm" or len(blobs) != _BLOBS:
            continue
        mean, variance, factor, scale, bias = split_blobs(blobs)
        fitted[name] = [mean, variance, factor]
        follower = _find_scale(graph, index)
        if follower is not None and follower.name not in weights:
            taken: list[np.ndarray | None] = [scale]
            if follower.scale_param.bias_term:
                taken.append(bias)
            elif np.any(bias):
                follower = None
            if follower is not None:
                fitted[follower.name] = taken
                continue
        if np.any(scale != 1) or np.any(bias):
            raise SnapshotError(
                describe(
                    where,
                    f'layer "{name}": holds the scale and bias of NVIDIA\'s BatchNorm, '
                    "and no layer of the net takes them",
                    "a Scale layer with bias_term: true right behind it",
                )
            )
    return fitted


def split_blobs(blobs: Sequence[np.ndarray | None]) -> tuple[np.ndarray, ...]:
    """Returns mean, variance, factor (1,), scale and bias from five blobs.

    The order of today is mean, variance, 1, scale, bias; that of DIGITS' older files
    scale, bias, mean, variance, 1. The factor is 1: the statistics count as they are.

    Args:
      blobs: float32, four of C values and one of a single value.
    """
    arrays = [np.ravel(blob) for blob in blobs if blob is not None]
    assert len(arrays) == _BLOBS, len(arrays)
    mean, variance, last, scale, bias = arrays
    if bias.size == 1 and last.size != 1:
        scale, bias, mean, variance, _ = arrays
    return mean, variance, np.ones(1, np.float32), scale, bias


def to_bvlc(net: caffe_pb2.NetParameter) -> caffe_pb2.NetParameter:
    """Returns a net whose five-blob BatchNorms are BatchNorm and Scale.

    Args:
      net: with weights, in today's form; not changed.

    Returns:
      A net with a layer NAME_scale, in place, behind each such BatchNorm.

    Raises:
      SnapshotError: a layer of that name is there already, or a blob is broken.
    """
    names = {layer.name for layer in net.layer}
    converted = caffe_pb2.NetParameter()
    converted.CopyFrom(net)
    converted.ClearField("layer")
    for layer in net.layer:
        ours = converted.layer.add()
        ours.CopyFrom(layer)
        if layer.type != "BatchNorm" or len(layer.blobs) != _BLOBS:
            continue
        scale_name = f"{layer.name}_scale"
        if scale_name in names:
            problem = f'layer "{scale_name}" exists already'
            raise SnapshotError(describe("", problem, "another name for it"))
        place = f'layer "{layer.name}"'
        arrays = split_blobs([blob_to_array(blob, place) for blob in layer.blobs])
        for field in ("blobs", "param"):
            ours.ClearField(field)
        ours.blobs.extend(array_to_blob(array) for array in arrays[:_STATISTICS])
        ours.batch_norm_param.DiscardUnknownFields()
        ours.batch_norm_param.eps = max(ours.batch_norm_param.eps, _LEAST_EPS)
        scale = converted.layer.add(name=scale_name, type="Scale")
        scale.bottom.extend(layer.top)
        scale.top.extend(layer.top)
        scale.scale_param.bias_term = True
        scale.blobs.extend(array_to_blob(array) for array in arrays[_STATISTICS:])
        if layer.HasField("phase"):
            scale.phase = layer.phase
    return converted


def to_nvcaffe(net: caffe_pb2.NetParameter) -> caffe_pb2.NetParameter:
    """Returns a net whose BatchNorms with a Scale behind them are NVIDIA's, of 5 blobs.

    A Scale counts that has one bottom, which is the BatchNorm's top, axis 1 and one
    value per channel, and where nothing else reads that top in between. It is left out,
    and its top becomes the BatchNorm's. The statistics of every BatchNorm are divided
    by their factor, which becomes 1.

    Args:
      net: with weights, bottoms and tops, in today's form; not changed.

    Raises:
      SnapshotError: a blob is broken.
    """
    converted = caffe_pb2.NetParameter()
    converted.CopyFrom(net)
    converted.ClearField("layer")
    layers = list(net.layer)
    pairs = _find_pairs(layers)
    for index, layer in enumerate(layers):
        if index in pairs.values():
            continue
        ours = converted.layer.add()
        ours.CopyFrom(layer)
        if layer.type != "BatchNorm" or len(layer.blobs) != _STATISTICS:
            continue
        place = f'layer "{layer.name}"'
        mean, variance, factor = (
            blob_to_array(blob, place).ravel() for blob in layer.blobs
        )
        by = np.float32(1) / factor[0] if factor[0] else np.float32(0)
        arrays = [mean * by, variance * by, np.ones(1, np.float32)]
        ours.ClearField("blobs")
        if index in pairs:
            scale = layers[pairs[index]]
            ours.ClearField("param")
            ours.ClearField("top")
            ours.top.extend(scale.top)
            ours.batch_norm_param.MergeFromString(_SCALE_BIAS)
            factors = [blob_to_array(blob, place).ravel() for blob in scale.blobs]
            if len(factors) == 1:
                factors.append(np.zeros_like(factors[0]))
            arrays += factors
        ours.blobs.extend(array_to_blob(array) for array in arrays)
    return converted


def _find_scale(graph: Graph, index: int) -> caffe_pb2.LayerParameter | None:
    """Returns the Scale layer that is the first to read a BatchNorm's top."""
    (top,) = graph.nodes[index].tops
    for node in graph.nodes[index + 1 :]:
        if top in node.bottoms:
            is_scale = node.layer.type == "Scale" and len(node.bottoms) == 1
            return node.layer if is_scale else None
    return None


def _find_pairs(layers: Sequence[caffe_pb2.LayerParameter]) -> dict[int, int]:
    """Returns the place of each BatchNorm that has a Scale -> that of the Scale."""
    pairs = {}
    for index, layer in enumerate(layers):
        if layer.type != "BatchNorm" or len(layer.blobs) != _STATISTICS:
            continue
        readers = [
            place
            for place in range(index + 1, len(layers))
            if layer.top[0] in layers[place].bottom
        ]
        if not readers:
            continue
        scale = layers[readers[0]]
        channels = blob_to_array(layer.blobs[0]).size
        fits = scale.type == "Scale" and len(scale.bottom) == 1
        fits = fits and scale.scale_param.axis == 1 and len(scale.blobs) in (1, 2)
        fits = fits and blob_to_array(scale.blobs[0]).size == channels
        # Another reader of the normalised blob would see it scaled.
        in_place = list(scale.top) == list(layer.top)
        if fits and (in_place or len(readers) == 1):
            pairs[index] = readers[0]
    return pairs
