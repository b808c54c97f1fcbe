"""Reads and writes binary messages: weights (.caffemodel), mean images (.binaryproto).

Follows Caffe's src/caffe/blob.cpp (FromProto, ToProto) and src/caffe/util/io.cpp.
"""

from __future__ import annotations

import math
import os
from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError, EncodeError, Message
from numpy.typing import ArrayLike, NDArray

from jaxcaffe.errors import CaffeError, DataError, SnapshotError, describe
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.files import read_bytes, write_bytes
from jaxcaffe.proto.text import Source
from jaxcaffe.proto.upgrade import needs_upgrade, upgrade_net
from jaxcaffe.proto.wire import append_packed, read_packed

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_LEGACY_SIZES = ("num", "channels", "height", "width")
_MessageT = TypeVar("_MessageT", bound=Message)


def read_caffemodel(path: str | os.PathLike[str]) -> caffe_pb2.NetParameter:
    """Reads a net with its weights, upgraded to today's form.

    Args:
      path: a binary NetParameter of any age.

    Raises:
      SnapshotError: the file is missing, empty, cut short, HDF5 or another kind of
        file, or holds no layer.
      PrototxtError: its layers cannot be upgraded.

    Source: src/caffe/util/upgrade_proto.cpp, ReadNetParamsFromBinaryFileOrDie.
    """
    name = os.fspath(path)
    net = read_message(path, caffe_pb2.NetParameter(), SnapshotError)
    if not net.layer and not net.layers:
        problem = "holds no layer, so it is no weight file"
        raise SnapshotError(describe(name, problem, "a .caffemodel"))
    return upgrade_net(net, Source(name, {})) if needs_upgrade(net) else net


def write_caffemodel(path: str | os.PathLike[str], net: caffe_pb2.NetParameter) -> None:
    """Writes a net with its weights, whole or not at all; an older file gives way.

    Raises:
      SnapshotError: the file cannot be written, or the net is over protobuf's 2 GiB.

    Source: src/caffe/util/io.cpp, WriteProtoToBinaryFile.
    """
    write_message(path, net, SnapshotError)


def net_weights(net: caffe_pb2.NetParameter) -> dict[str, list[NDArray[np.float32]]]:
    """Returns the blobs of every layer, by layer name.

    Args:
      net: in today's form, as `read_caffemodel` gives it.

    Returns:
      Layer name -> float32 arrays in Caffe's order, in the shapes of the file (the
      old form has always four axes: a bias is (1, 1, 1, K)). Layers without blobs
      have an empty list. Of layers with one name the last counts, as when Caffe
      copies one after the other.

    Raises:
      SnapshotError: a blob's shape and count of values disagree.

    Source: src/caffe/net.cpp, CopyTrainedLayersFrom.
    """
    return {
        layer.name: [
            blob_to_array(blob, f'layer "{layer.name}" blob {index}')
            for index, blob in enumerate(layer.blobs)
        ]
        for layer in net.layer
    }


def read_blob(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Reads a .binaryproto, such as a mean image.

    Returns:
      float32 array in the file's shape: (1, C, H, W) for a mean by Caffe's tool, in
      the pixel values and channel order (BGR) of the data.

    Raises:
      DataError: the file is missing, empty, cut short, another kind of file, or has
        no values or not as many as its shape asks for.

    Source: src/caffe/data_transformer.cpp, reading mean_file.
    """
    name = os.fspath(path)
    blob = read_message(path, caffe_pb2.BlobProto(), DataError)
    values = blob_to_array(blob, name, DataError)
    if values.size == 0:
        # A file of another kind may parse: wire format names no types.
        raise DataError(describe(name, "holds no values", "a .binaryproto"))
    return values


def write_blob(path: str | os.PathLike[str], array: ArrayLike) -> None:
    """Writes a .binaryproto, whole or not at all; an older file gives way.

    Args:
      path: of the file.
      array: float32, any shape; four axes are written as num, channels, height,
        width, as Caffe's compute_image_mean does.

    Raises:
      DataError: the file cannot be written.

    Source: tools/compute_image_mean.cpp.
    """
    values = np.asarray(array, dtype=np.float32)
    blob = caffe_pb2.BlobProto()
    if values.ndim == len(_LEGACY_SIZES):
        for size, length in zip(_LEGACY_SIZES, values.shape, strict=True):
            setattr(blob, size, length)
    else:
        blob.shape.dim.extend(values.shape)
    append_packed(blob, "data", values.astype("<f4"))
    write_message(path, blob, DataError)


def blob_to_array(
    blob: caffe_pb2.BlobProto,
    where: str = "blob",
    error: type[CaffeError] = SnapshotError,
) -> NDArray[np.float32]:
    """Returns the values of a blob.

    Args:
      blob: with num, channels, height, width (which count when any is set) or shape,
        and with data or double_data (which counts when there is any).
      where: names the blob in errors.
      error: the kind of error to raise.

    Returns:
      float32 array of the blob's shape, with memory of its own.

    Raises:
      error: as many values as the shape asks for are not there.

    Source: src/caffe/blob.cpp, FromProto. Differs: none.
    """
    if any(blob.HasField(size) for size in _LEGACY_SIZES):
        shape = tuple(getattr(blob, size) for size in _LEGACY_SIZES)
    else:
        shape = tuple(blob.shape.dim)
    packed = read_packed(blob, data="<f4", double_data="<f8")
    values = packed["double_data"] if packed["double_data"].size else packed["data"]
    if min(shape, default=0) < 0 or values.size != math.prod(shape):
        problem = f"has {values.size} values for shape {shape}"
        raise error(describe(where, problem, f"{math.prod(shape)} values"))
    return values.reshape(shape).astype(np.float32)


def array_to_blob(
    array: ArrayLike, diff: ArrayLike | None = None
) -> caffe_pb2.BlobProto:
    """Returns a blob with `shape` and float data, as Caffe writes into snapshots.

    Args:
      array: float32, any shape, a scalar too.
      diff: gradient of the same shape, for snapshot_diff.

    Source: src/caffe/blob.cpp, ToProto. Differs: none.
    """
    values = np.asarray(array, dtype="<f4")
    blob = caffe_pb2.BlobProto()
    blob.shape.dim.extend(values.shape)
    append_packed(blob, "data", values)
    if diff is not None:
        slopes = np.asarray(diff, dtype="<f4")
        assert slopes.shape == values.shape, (slopes.shape, values.shape)
        append_packed(blob, "diff", slopes)
    return blob


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Tells whether an existing file is HDF5, by its first bytes."""
    with open(path, "rb") as file:
        return file.read(len(_HDF5_MAGIC)) == _HDF5_MAGIC


def read_message(
    path: str | os.PathLike[str],
    message: _MessageT,
    error: type[CaffeError] = SnapshotError,
) -> _MessageT:
    """Fills an empty message from a binary file, and returns it.

    Raises:
      error: the file is missing, empty, cut short or of another kind.

    Source: src/caffe/util/io.cpp, ReadProtoFromBinaryFile.
    """
    name = os.fspath(path)
    kind = message.DESCRIPTOR.name
    data = read_bytes(path, error)
    if data.startswith(_HDF5_MAGIC):
        problem = f"is an HDF5 file, and a binary {kind} was expected"
        raise error(describe(name, problem))
    try:
        message.ParseFromString(data)
    except DecodeError:
        problem = f"is no binary {kind}: the file is cut short or of another kind"
        raise error(describe(name, problem)) from None
    return message


def write_message(
    path: str | os.PathLike[str],
    message: Message,
    error: type[CaffeError] = SnapshotError,
) -> None:
    """Writes a binary message, whole or not at all; an older file gives way.

    Raises:
      error: the file cannot be written, or the message is over protobuf's 2 GiB.

    Source: src/caffe/util/io.cpp, WriteProtoToBinaryFile.
    """
    try:
        data = message.SerializeToString()
    except (EncodeError, ValueError):
        kind = message.DESCRIPTOR.name
        problem = f"cannot be written as binary {kind}: it is over 2 GiB"
        raise error(describe(os.fspath(path), problem, "HDF5 format")) from None
    write_bytes(path, data, error)
