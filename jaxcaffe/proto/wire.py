"""Moves packed floats between protobuf messages and numpy without a Python loop.

Follows the wire format that google/protobuf/wire_format_lite.h defines.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}


def read_packed(message: Message, **dtypes: str) -> dict[str, NDArray[Any]]:
    """Copies packed repeated float or double fields of a message to arrays.

    Serializing the message and viewing the bytes is a few memory copies; asking the
    message for its values makes a Python float of each: 5 to 30 times slower.

    Args:
      message: any; its own sub-messages are not looked into.
      **dtypes: field name -> "<f4" or "<f8", the type that the schema gives it.

    Returns:
      Field name -> (count,) array of that dtype; read-only; empty if not set.
    """
    numbers = {message.DESCRIPTOR.fields_by_name[n].number: n for n in dtypes}
    wire = message.SerializeToString()
    values: dict[str, list[NDArray[Any]]] = {name: [] for name in dtypes}
    for number, start, stop in _byte_fields(memoryview(wire)):
        if name := numbers.get(number):
            dtype = np.dtype(dtypes[name])
            count = (stop - start) // dtype.itemsize
            values[name].append(np.frombuffer(wire, dtype, count, start))
    return {
        name: parts[0]
        if len(parts) == 1
        else np.concatenate([np.empty(0, dtype), *parts])
        for (name, parts), dtype in zip(values.items(), dtypes.values(), strict=True)
    }


def append_packed(message: Message, field: str, values: NDArray[Any]) -> None:
    """Appends an array to a packed repeated float or double field.

    Args:
      message: is changed.
      field: its name.
      values: any shape, row-major order; of the field's own type, "<f4" or "<f8".
    """
    number = message.DESCRIPTOR.fields_by_name[field].number
    payload = np.ascontiguousarray(values).tobytes()
    head = _encode_varint(number << 3 | _BYTES) + _encode_varint(len(payload))
    message.MergeFromString(head + payload)


def _byte_fields(wire: memoryview) -> Iterator[tuple[int, int, int]]:
    """Yields (field number, start, stop) of each length-delimited field."""
    at = 0
    while at < len(wire):
        tag, at = _decode_varint(wire, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _decode_varint(wire, at)
        elif kind == _BYTES:
            size, at = _decode_varint(wire, at)
            yield tag >> 3, at, at + size
            at += size
        else:
            # Groups (3, 4) have no length; their content is read as fields.
            at += _FIXED_SIZES.get(kind, 0)


def _decode_varint(wire: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = wire[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
