"""Reads and writes binary messages: weights (.caffemodel), mean images (.binaryproto).

Follows Caffe's src/caffe/blob.cpp (FromProto, ToProto) and src/caffe/util/io.cpp.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, EncodeError, Message
from numpy.typing import ArrayLike, NDArray

from jaxcaffe.errors import CaffeError, DataError, SnapshotError, describe, plural
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.files import read_bytes, write_bytes
from jaxcaffe.proto.text import Source
from jaxcaffe.proto.unknown import tell_unknown_settings
from jaxcaffe.proto.upgrade import needs_upgrade, upgrade_net
from jaxcaffe.proto.wire import append_packed, read_packed, read_unnamed

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_LEGACY_SIZES = ("num", "channels", "height", "width")
_MessageT = TypeVar("_MessageT", bound=Message)

# Fields of NVIDIA's BlobProto that BVLC's lacks, and its numbers of types.
_RAW_DATA_TYPE, _RAW_DATA = 10, 12
_RAW_DIFF_TYPE, _RAW_DIFF = 11, 13
_RAW_DTYPES = {0: "<f8", 1: "<f4", 2: "<f2"}


def read_caffemodel(
    path: str | os.PathLike[str], tell: Callable[[str], object] | None = None
) -> caffe_pb2.NetParameter:
    """Reads a net with its weights, upgraded to today's form.

    Args:
      path: a binary NetParameter of any age.
      tell: gets one line if layers of the file have settings that only a fork of Caffe
        has, which matters little to who takes its blobs alone.

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
    if tell is not None and (line := tell_unknown_settings(net, name)):
        tell(line)
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
        and with data, double_data (which counts when there is any) or, where both are
        absent, the raw_data of NVIDIA's Caffe, which may be half precision.
      where: names the blob in errors.
      error: the kind of error to raise.

    Returns:
      float32 array of the blob's shape, with memory of its own.

    Raises:
      error: as many values as the shape asks for are not there.

    Source: src/caffe/blob.cpp, FromProto; the same of NVIDIA's Caffe 0.17. Differs:
      none.
    """
    packed = read_packed(blob, data="<f4", double_data="<f8")
    values = packed["double_data"] if packed["double_data"].size else packed["data"]
    shape = _blob_shape(blob)
    if not values.size and 0 not in shape:
        values = _read_raw(blob, _RAW_DATA, _RAW_DATA_TYPE, where, error)
    return _fit(values, shape, "values", where, error)


def blob_to_diff(
    blob: caffe_pb2.BlobProto,
    where: str = "blob",
    error: type[CaffeError] = SnapshotError,
) -> NDArray[np.float32] | None:
    """Returns the gradient that a blob was written with, or None.

    Args:
      blob: with diff, double_diff or the raw_diff of NVIDIA's Caffe, or without.
      where: names the blob in errors.
      error: the kind of error to raise.

    Returns:
      float32 array of the blob's shape, with memory of its own.

    Raises:
      error: there are some but not as many values as the shape asks for.

    Source: src/caffe/blob.cpp, FromProto. Differs: none.
    """
    packed = read_packed(blob, diff="<f4", double_diff="<f8")
    values = packed["double_diff"] if packed["double_diff"].size else packed["diff"]
    if not values.size:
        values = _read_raw(blob, _RAW_DIFF, _RAW_DIFF_TYPE, where, error)
    if not values.size:
        return None
    return _fit(values, _blob_shape(blob), "values of diff", where, error)


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


def _blob_shape(blob: caffe_pb2.BlobProto) -> tuple[int, ...]:
    if any(blob.HasField(size) for size in _LEGACY_SIZES):
        return tuple(getattr(blob, size) for size in _LEGACY_SIZES)
    return tuple(blob.shape.dim)


def _fit(
    values: NDArray[Any],
    shape: tuple[int, ...],
    what: str,
    where: str,
    error: type[CaffeError],
) -> NDArray[np.float32]:
    if min(shape, default=0) < 0 or values.size != math.prod(shape):
        problem = f"has {values.size} {what} for shape {shape}"
        raise error(describe(where, problem, plural(math.prod(shape), "value")))
    return values.reshape(shape).astype(np.float32)


def _read_raw(
    blob: caffe_pb2.BlobProto,
    number: int,
    type_number: int,
    where: str,
    error: type[CaffeError],
) -> NDArray[Any]:
    """Returns what NVIDIA's Caffe wrote as bytes; empty if it did not."""
    raw = read_unnamed(blob, number)
    if not isinstance(raw, bytes):
        return np.empty(0, "<f4")
    kind = read_unnamed(blob, type_number)
    dtype = _RAW_DTYPES.get(kind) if isinstance(kind, int) else None
    if dtype is None or len(raw) % np.dtype(dtype).itemsize:
        problem = f"has {len(raw)} raw bytes of NVIDIA's type {kind!r}"
        accepted = "DOUBLE (0), FLOAT (1) or FLOAT16 (2)"
        raise error(describe(where, problem, accepted))
    return np.frombuffer(raw, dtype)


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
