"""Writes messages as text, character for character as Caffe's tools do.

Follows google/protobuf/text_format.cc (TextFormat::Print), which Caffe's
src/caffe/util/io.cpp (WriteProtoToTextFile) calls.
"""

from __future__ import annotations

import math
import os
import struct

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from jaxcaffe.errors import PrototxtError
from jaxcaffe.proto.files import write_bytes

_ESCAPES = {
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
    ord('"'): '\\"',
    ord("'"): "\\'",
    ord("\\"): "\\\\",
}


def format_message(message: Message) -> str:
    """Returns a message as prototxt: fields by number, two blanks per level.

    A float is written with 6 digits, or with 9 where 6 do not give it back; a double
    with 15 or 17. Unknown fields are left out.

    Source: TextFormat::Print, SimpleFtoa and CEscape of protobuf 3.
    """
    lines: list[str] = []
    _append_fields(lines, message, "")
    return "".join(f"{line}\n" for line in lines)


def write_text(path: str | os.PathLike[str], message: Message) -> None:
    """Writes a prototxt, whole or not at all; an older file gives way to it.

    Raises:
      PrototxtError: the file cannot be written.
    """
    write_bytes(path, format_message(message).encode("ascii"), PrototxtError)


def _append_fields(lines: list[str], message: Message, indent: str) -> None:
    for field, value in message.ListFields():
        for item in value if field.is_repeated else (value,):
            if field.message_type is None:
                lines.append(f"{indent}{field.name}: {_format_scalar(field, item)}")
                continue
            lines.append(f"{indent}{field.name} {{")
            _append_fields(lines, item, indent + "  ")
            lines.append(f"{indent}}}")


def _format_scalar(field: FieldDescriptor, value: object) -> str:
    if isinstance(value, str):
        return f'"{_escape(value.encode("utf-8"))}"'
    if isinstance(value, bytes):
        return f'"{_escape(value)}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else str(value)
    if isinstance(value, float):
        is_float = field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT
        return _format_float(value, is_float)
    return str(value)


def _format_float(value: float, is_float: bool) -> str:
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    digits, more = (6, 9) if is_float else (15, 17)
    short = f"{value:.{digits}g}"
    back = float(short)
    if is_float and abs(back) <= 3.4028234663852886e38:
        (back,) = struct.unpack("f", struct.pack("f", back))
    return short if back == value else f"{value:.{more}g}"


def _escape(data: bytes) -> str:
    return "".join(
        _ESCAPES.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}")
        for byte in data
    )
