"""Datum bytes, the records of Caffe's databases, to arrays and back.

Follows CVMatToDatum, ReadFileToDatum and DecodeDatum in src/caffe/util/io.cpp.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from jaxcaffe.data.image import Decode, decode_image, to_planes
from jaxcaffe.errors import DataError, describe
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.wire import encode_field

_FLOAT_TAG = caffe_pb2.Datum.FLOAT_DATA_FIELD_NUMBER << 3 | 5  # 5: four bytes


class Record(NamedTuple):
    """What one Datum holds."""

    data: np.ndarray  # (C, H, W) uint8, 0 to 255 and B, G, R; or float32 as written
    label: int  # 0 where the Datum has none
    encoded: bool  # whether `data` was decoded from an image file


def read_datum(
    value: bytes, key: bytes | str, decode: Decode = "native", source: str = ""
) -> Record:
    """Returns the array and the label of one record.

    Args:
      value: the serialised Datum.
      key: the record's key, for messages.
      decode: channels of an encoded image; no effect on plain pixels and floats.
      source: path of the database, for messages.

    Returns:
      The record; its array may be read-only.

    Raises:
      DataError: not a Datum, a byte count that contradicts the sizes, a broken image.

    Source: caffe/src/caffe/util/io.cpp, DecodeDatum; caffe/src/caffe/
    data_transformer.cpp, Transform: `data` has precedence over `float_data`. Differs:
    none.
    """
    where = describe_record(key, source)
    try:
        datum = caffe_pb2.Datum.FromString(value)
    except DecodeError:
        raise DataError(
            describe(
                where,
                f"its {len(value)} bytes are no Datum; they are truncated or hold "
                "something else",
            )
        ) from None
    if datum.encoded:
        pixels = decode_image(datum.data, decode, where)
        return Record(to_planes(pixels), datum.label, True)
    shape = (datum.channels, datum.height, datum.width)
    if datum.data:
        data = np.frombuffer(datum.data, np.uint8)
        kind = "bytes of data"
    else:
        data = np.array(datum.float_data, np.float32)
        kind = "values in float_data" if data.size else "values"
    if min(shape) <= 0 or data.size != shape[0] * shape[1] * shape[2]:
        raise DataError(
            describe(
                where,
                f"has {data.size} {kind}, but channels x height x width is "
                f"{shape[0]} x {shape[1]} x {shape[2]}",
            )
        )
    return Record(data.reshape(shape), datum.label, False)


def write_datum(
    data: np.ndarray, label: int | None = None, *, say_encoded: bool = True
) -> bytes:
    """Returns the serialised Datum of an array, byte for byte as Caffe's tools do.

    Args:
      data: (C, H, W); uint8 goes to `data`, anything else as float32 to `float_data`.
      label: None leaves the field out, as extract_features does.
      say_encoded: whether the default `encoded: false` of bytes is written out, as
        convert_imageset does; Caffe's converters of MNIST and CIFAR-10 leave it out.

    Source: caffe/src/caffe/util/io.cpp, CVMatToDatum; caffe/tools/
    extract_features.cpp; caffe/examples/mnist/convert_mnist_data.cpp. Differs: none.
    """
    channels, height, width = data.shape
    datum = caffe_pb2.Datum(channels=channels, height=height, width=width)
    if data.dtype != np.uint8:
        if label is not None:
            datum.label = label
        # What protobuf would write, in a hundredth of the time: a tag before each
        # value.
        values = np.empty((data.size, 5), np.uint8)
        values[:, 0] = _FLOAT_TAG
        values[:, 1:] = data.astype("<f4").reshape(-1, 1).view(np.uint8)
        return datum.SerializeToString() + values.tobytes()
    rest = caffe_pb2.Datum() if label is None else caffe_pb2.Datum(label=label)
    if say_encoded:
        rest.encoded = False
    # In the order of the fields' numbers; the pixels are copied once.
    pixels = encode_field(
        caffe_pb2.Datum.DATA_FIELD_NUMBER, [np.ascontiguousarray(data).data]
    )
    return b"".join([datum.SerializeToString(), *pixels, rest.SerializeToString()])


def write_image_datum(pixels: np.ndarray, label: int) -> bytes:
    """Returns the serialised Datum of (H, W, C) uint8 pixels."""
    return write_datum(to_planes(pixels), label)


def write_encoded_datum(content: bytes, label: int) -> bytes:
    """Returns the serialised Datum of an image file's bytes; the sizes stay unset.

    Source: caffe/src/caffe/util/io.cpp, ReadFileToDatum. Differs: none.
    """
    return caffe_pb2.Datum(data=content, label=label, encoded=True).SerializeToString()


def describe_record(key: bytes | str, source: str = "") -> str:
    """Returns `source: record "key"` for messages, printable whatever the bytes."""
    if isinstance(key, bytes):
        key = key.decode("utf-8", "backslashreplace")
    return f'{source}: record "{key}"' if source else f'record "{key}"'
