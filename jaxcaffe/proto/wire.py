"""Moves packed floats between protobuf messages and numpy without a Python loop.

Follows the wire format that google/protobuf/wire_format_lite.h defines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}

Chunk = bytes | memoryview
"""A piece of a message's wire form."""


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
    for number, kind, start, stop in _fields(memoryview(wire)):
        if kind == _BYTES and (name := numbers.get(number)):
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


def read_unnamed(message: Message, number: int) -> int | bytes | None:
    """Returns a field by its number, which the schema need not know.

    Args:
      message: any, with what it kept of fields that it does not know.
      number: of a field of integers, strings, bytes or messages.

    Returns:
      The last value: an integer, or the bytes of anything with a length; None if the
      field is not set, or is a float.
    """
    wire = message.SerializeToString()
    value: int | bytes | None = None
    for found, kind, start, stop in _fields(memoryview(wire)):
        if found == number and kind == _BYTES:
            value = wire[start:stop]
        elif found == number and kind == _VARINT:
            value, _ = _decode_varint(memoryview(wire), start)
    return value


def encode_field(number: int, chunks: Sequence[Chunk]) -> list[Chunk]:
    """Returns a field with a length, as pieces to be written one after the other.

    Arrays pass through uncopied, and a file takes them without Python's lock.

    Args:
      number: of the field.
      chunks: its content, in pieces.
    """
    head = _encode_varint(number << 3 | _BYTES)
    return [head + _encode_varint(count_bytes(chunks)), *chunks]


def encode_varint_field(number: int, value: int) -> bytes:
    """Returns a field of one integer, 0 or above."""
    return _encode_varint(number << 3 | _VARINT) + _encode_varint(value)


def count_bytes(chunks: Sequence[Chunk]) -> int:
    """Returns the length of all pieces together."""
    return sum(memoryview(chunk).nbytes for chunk in chunks)


def _fields(wire: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Yields (field number, kind, start, stop) of each field's content."""
    at = 0
    while at < len(wire):
        tag, at = _decode_varint(wire, at)
        kind = tag & 7
        start = at
        if kind == _VARINT:
            _, at = _decode_varint(wire, at)
        elif kind == _BYTES:
            size, start = _decode_varint(wire, at)
            at = start + size
        else:
            # Groups (3, 4) have no length; their content is read as fields.
            at += _FIXED_SIZES.get(kind, 0)
        yield tag >> 3, kind, start, at


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
