"""A net and its weights as the .caffemodel that Caffe writes.

Follows caffe/src/caffe/net.cpp, ToProto, and caffe/include/caffe/layer.hpp, ToProto.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from jaxcaffe.disk import write_pieces
from jaxcaffe.errors import SnapshotError, describe
from jaxcaffe.layers import registry
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.files import write_atomically
from jaxcaffe.proto.wire import Chunk, count_bytes, encode_field
from jaxcaffe.spec import Net

LONGEST_MESSAGE = (1 << 31) - 1
"""Bytes of the longest binary message that protobuf, and so Caffe, reads."""

Blobs = Mapping[str, Sequence[np.ndarray]]
"""Layer name -> float32 arrays in Caffe's order."""

_NUMBERS = {
    field.name: field.number
    for descriptor in (
        caffe_pb2.BlobProto.DESCRIPTOR,
        caffe_pb2.LayerParameter.DESCRIPTOR,
    )
    for field in descriptor.fields
    if field.name in ("data", "diff", "shape", "blobs")
}
_NET = caffe_pb2.NetParameter.DESCRIPTOR.fields_by_name
_SPECS_OF_STATS = 3


def saved_layers(net: Net) -> list[caffe_pb2.LayerParameter]:
    """Returns the layers of a net as a weight file describes them, without blobs.

    They are those of the filtered net, inserted splits included, with what Caffe adds
    as it sets a layer up: the loss_weight of losses, and an lr_mult of 0 for each of
    BatchNorm's statistics. Where several layers with blobs have one name, those after
    the first go by their keys.

    Args:
      net: a translated net.

    Source: caffe/src/caffe/layers/loss_layer.cpp and batch_norm_layer.cpp, LayerSetUp.
    Differs: Caffe writes equal names, and loads the last layer's blobs into the first.
    """
    layers = []
    for node in net.graph.nodes:
        layer = caffe_pb2.LayerParameter()
        layer.CopyFrom(node.layer)
        layer.ClearField("blobs")
        layer.name = node.key
        kind = registry.lookup(layer.type)
        if kind is not None and kind.is_loss and not layer.loss_weight:
            layer.loss_weight.append(1)
        if layer.type == "BatchNorm":
            for _ in range(len(layer.param), _SPECS_OF_STATS):
                layer.param.add(lr_mult=0)
        layers.append(layer)
    return layers


def write_caffemodel(
    path: str | os.PathLike[str],
    name: str,
    layers: Sequence[caffe_pb2.LayerParameter],
    blobs: Blobs,
    diffs: Blobs | None = None,
) -> None:
    """Writes a .caffemodel, whole or not at all; an older file gives way.

    Arrays go to the file as they lie in memory, without Python's lock, so that a
    thread may do it beside a training run.

    Args:
      path: of the file.
      name: of the net.
      layers: without blobs, as `saved_layers` gives them.
      blobs: of the layers that have any; a shared blob stands in every sharer.
      diffs: gradients, shaped like the blobs, for snapshot_diff.

    Raises:
      SnapshotError: the file cannot be written, or would be over protobuf's 2 GiB.

    Source: caffe/src/caffe/net.cpp, ToProto. Differs: none.
    """
    chunks = encode_field(_NET["name"].number, [name.encode()])
    for layer in layers:
        ours = blobs.get(layer.name, ())
        slopes = (diffs or {}).get(layer.name, [None] * len(ours))
        chunks += encode_field(_NET["layer"].number, _encode_layer(layer, ours, slopes))
    write_chunks(path, chunks)


def write_chunks(path: str | os.PathLike[str], chunks: Sequence[Chunk]) -> None:
    """Writes a message given in pieces, whole or not at all.

    Raises:
      SnapshotError: the file cannot be written, or would be over protobuf's 2 GiB.
    """
    if count_bytes(chunks) > LONGEST_MESSAGE:
        raise SnapshotError(
            describe(
                os.fspath(path),
                "would be over 2 GiB, which Caffe cannot read",
                "snapshot_format: HDF5",
            )
        )
    write_atomically(path, lambda file: write_pieces(file, chunks), SnapshotError)


def encode_blob(array: np.ndarray, diff: np.ndarray | None = None) -> list[Chunk]:
    """Returns a BlobProto in pieces, byte for byte as Caffe's.

    Args:
      array: float32, any shape.
      diff: of the same shape, or None.

    Source: caffe/src/caffe/blob.cpp, ToProto. Differs: none.
    """
    chunks: list[Chunk] = []
    for field, values in (("data", array), ("diff", diff)):
        if values is not None and values.size:
            assert values.shape == array.shape, (values.shape, array.shape)
            flat = np.ascontiguousarray(values, "<f4").reshape(-1)
            chunks += encode_field(_NUMBERS[field], [flat.data])
    if array.ndim:
        shape = caffe_pb2.BlobShape(dim=array.shape)
        chunks += encode_field(_NUMBERS["shape"], [shape.SerializeToString()])
    return chunks


def _encode_layer(
    layer: caffe_pb2.LayerParameter,
    blobs: Sequence[np.ndarray],
    diffs: Sequence[np.ndarray | None],
) -> list[Chunk]:
    """Returns a layer in pieces, its fields in the order of their numbers."""
    before, after = caffe_pb2.LayerParameter(), caffe_pb2.LayerParameter()
    before.CopyFrom(layer)
    after.CopyFrom(layer)
    for field, _ in layer.ListFields():
        part = after if field.number < _NUMBERS["blobs"] else before
        part.ClearField(field.name)
    before.DiscardUnknownFields()
    chunks: list[Chunk] = [before.SerializeToString()]
    for blob, diff in zip(blobs, diffs, strict=True):
        chunks += encode_field(_NUMBERS["blobs"], encode_blob(blob, diff))
    return [*chunks, after.SerializeToString()]
