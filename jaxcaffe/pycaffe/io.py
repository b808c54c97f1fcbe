"""Arrays to protobuf messages and back; images' functions stand in other files.

Follows caffe/python/caffe/io.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from jaxcaffe.data.image import decode_image
from jaxcaffe.errors import describe, plural
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.wire import append_packed, read_packed
from jaxcaffe.pycaffe.images import ArrayError, load_image, oversample, resize_image
from jaxcaffe.pycaffe.transformer import Transformer

if TYPE_CHECKING:
    from jaxcaffe.spec import Shape

__all__ = [
    "ArrayError",
    "Transformer",
    "array_to_blobproto",
    "array_to_datum",
    "arraylist_to_blobprotovector_str",
    "blobproto_to_array",
    "blobprotovector_str_to_arraylist",
    "datum_to_array",
    "load_image",
    "oversample",
    "resize_image",
]

_LEGACY_SIZES = ("num", "channels", "height", "width")


def blobproto_to_array(
    blob: caffe_pb2.BlobProto, return_diff: bool = False
) -> np.ndarray:
    """Returns the values of a BlobProto, or its gradient.

    Args:
      blob: with num, channels, height, width (which count when any is set) or shape.
      return_diff: the gradient.

    Returns:
      float64 array of the blob's shape.

    Raises:
      ArrayError: as many values as the shape asks for are not there.

    Source: caffe/python/caffe/io.py. Differs: values kept in double precision are read
    too.
    """
    single, double = ("diff", "double_diff") if return_diff else ("data", "double_data")
    packed = read_packed(blob, **{single: "<f4", double: "<f8"})
    values = packed[double] if packed[double].size else packed[single]
    if any(blob.HasField(size) for size in _LEGACY_SIZES):
        shape = tuple(getattr(blob, size) for size in _LEGACY_SIZES)
    else:
        shape = tuple(blob.shape.dim)
    return _fit(values.astype(np.float64), shape, f"BlobProto has {single}")


def array_to_blobproto(
    arr: np.ndarray, diff: np.ndarray | None = None
) -> caffe_pb2.BlobProto:
    """Returns a BlobProto of an array of any shape.

    Args:
      arr: is written as float32.
      diff: its gradient, of the same shape; that is not checked.

    Source: caffe/python/caffe/io.py. Differs: none.
    """
    arr = np.asarray(arr)
    blob = caffe_pb2.BlobProto()
    blob.shape.dim.extend(arr.shape)
    append_packed(blob, "data", arr.astype("<f4"))
    if diff is not None:
        append_packed(blob, "diff", np.asarray(diff).astype("<f4"))
    return blob


def arraylist_to_blobprotovector_str(arraylist: Iterable[np.ndarray]) -> bytes:
    """Returns the serialised BlobProtoVector of some arrays."""
    blobs = [array_to_blobproto(arr) for arr in arraylist]
    return caffe_pb2.BlobProtoVector(blobs=blobs).SerializeToString()


def blobprotovector_str_to_arraylist(str: bytes) -> list[np.ndarray]:
    """Returns the arrays of a serialised BlobProtoVector, float64."""
    blobs = caffe_pb2.BlobProtoVector.FromString(str).blobs
    return [blobproto_to_array(blob) for blob in blobs]


def array_to_datum(arr: np.ndarray, label: int | None = None) -> caffe_pb2.Datum:
    """Returns the Datum of an array.

    Args:
      arr: (C, H, W); uint8 goes to `data`, anything else as float32 to `float_data`.
      label: None leaves the field out.

    Raises:
      ArrayError: the array has another number of axes.

    Source: caffe/python/caffe/io.py. Differs: none.
    """
    if arr.ndim != 3:
        raise ArrayError(
            describe("", f"Incorrect array shape. It is {arr.shape}", "(C, H, W)")
        )
    channels, height, width = arr.shape
    datum = caffe_pb2.Datum(channels=channels, height=height, width=width)
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(arr.astype(np.float32).ravel())
    if label is not None:
        datum.label = label
    return datum


def datum_to_array(datum: caffe_pb2.Datum) -> np.ndarray:
    """Returns the array of a Datum, without its label.

    Returns:
      (C, H, W) uint8, or float64 where it holds float_data.

    Raises:
      ArrayError: as many values as the sizes ask for are not there.
      DataError: an encoded image is broken.

    Source: caffe/python/caffe/io.py. Differs: an encoded image is decoded, B, G, R.
    """
    if datum.encoded:
        pixels = decode_image(datum.data, "native", "Datum")
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))
    shape = (datum.channels, datum.height, datum.width)
    if datum.data:
        return _fit(np.frombuffer(datum.data, np.uint8).copy(), shape, "Datum has data")
    values = np.array(datum.float_data, np.float64)
    return _fit(values, shape, "Datum has float_data")


def _fit(values: np.ndarray, shape: Shape, what: str) -> np.ndarray:
    if min(shape, default=0) < 0 or values.size != math.prod(shape):
        problem = f"{what} of {plural(values.size, 'value')} for the shape {shape}"
        raise ArrayError(describe("", problem, plural(math.prod(shape), "value")))
    return values.reshape(shape)
