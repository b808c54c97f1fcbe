"""Names what a binary file holds beyond Caffe's schema, and the forks it comes from.

Follows the unknown fields that protobuf keeps when Caffe's src/caffe/util/io.cpp
(ReadProtoFromBinaryFile) reads a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from jaxcaffe.errors import CaffeError, describe, describe_layer
from jaxcaffe.proto import caffe_pb2, dialects

_SHOWN = 3  # readings of one number that are told
_LAYERS_SHOWN = 5


class Unknown(NamedTuple):
    """Something in a message that Caffe 1.0 has no name for."""

    layer: tuple[str, str] | None  # name and type of the layer around it
    what: str  # a clause that names it and the forks it comes from


def find_unknown(message: Message, blobs: bool = True) -> Iterator[Unknown]:
    """Yields the unknown fields and enum values of a message and all in it.

    Args:
      message: as read from a binary file; not changed.
      blobs: whether blobs are looked into.
    """
    yield from _walk(message, None, blobs)


def refuse_unknown(message: Message, where: str, error: type[CaffeError]) -> None:
    """Refuses a message with anything unknown in it.

    Args:
      message: as read from a binary file.
      where: the file's path.
      error: the kind of error to raise.

    Raises:
      error: names the first unknown field, its layer and the forks that have it.
    """
    for unknown in find_unknown(message):
        raise error(tell_unknown(unknown, where))


def tell_unknown_settings(net: caffe_pb2.NetParameter, where: str) -> str:
    """Tells what of a weight file's net is unknown, besides its blobs, or "".

    Args:
      net: as read from the file, not upgraded.
      where: the file's path.

    Returns:
      One line for a log: whoever takes only blobs from the file may go on.
    """
    found = list(find_unknown(net, blobs=False))
    if not found:
        return ""
    layers = list(dict.fromkeys(u.layer for u in found if u.layer))
    named = ", ".join(f'"{name}" ({type_})' for name, type_ in layers[:_LAYERS_SHOWN])
    if len(layers) > _LAYERS_SHOWN:
        named += f" and {len(layers) - _LAYERS_SHOWN} more"
    place = f"layers {named}" if layers else "the net"
    return describe(
        where,
        f"only blobs are taken; {place} have settings that Caffe 1.0 lacks, the first "
        f"of them: {found[0].what}",
    )


def tell_unknown(unknown: Unknown, where: str) -> str:
    """Returns the message for one of `find_unknown`, with the file's path."""
    accepted = "what Caffe 1.0 has"
    if unknown.layer is None:
        return describe(where, unknown.what, accepted)
    return describe_layer(where, *unknown.layer, unknown.what, accepted)


_V1 = caffe_pb2.V1LayerParameter
_LAYERS = (caffe_pb2.LayerParameter, _V1)


def _walk(
    message: Message, layer: tuple[str, str] | None, blobs: bool
) -> Iterator[Unknown]:
    if isinstance(message, caffe_pb2.BlobProto) and not blobs:
        return
    if isinstance(message, _LAYERS):
        layer = _identify(message)
    for field in UnknownFieldSet(message):
        type_ = layer[1] if layer else ""
        what = _tell(message.DESCRIPTOR, field.field_number, field.data, type_)
        yield Unknown(layer, what)
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        for item in value if descriptor.is_repeated else (value,):
            yield from _walk(item, layer, blobs)


def _identify(layer: Any) -> tuple[str, str]:
    if isinstance(layer, caffe_pb2.LayerParameter):
        return layer.name, layer.type or "no type"
    if layer.HasField("layer"):
        return layer.layer.name, layer.layer.type or "no type"
    return layer.name, _V1.LayerType.Name(layer.type)


def _tell(message: Descriptor, number: int, value: Any, type_: str) -> str:
    known = message.fields_by_number.get(number)
    if known is not None and known.enum_type is not None and isinstance(value, int):
        # A value that proto2 does not know stays behind as an unknown field.
        problem = f"{known.name} is {value}, which Caffe 1.0 lacks"
        forks = dialects.value_forks(known.enum_type, value)
        return f"{problem}; {dialects.tell_forks(forks)}" if forks else problem
    if known is not None:
        return f"{known.name} of {message.name} holds a value of another type"
    problem = f"{message.name} of Caffe 1.0 has no field {number}"
    readings = dialects.number_forks(message, number)
    # Of several forks that use a number, those that have the layer's type are meant.
    like = set(dialects.layer_type_forks(type_))
    readings = tuple(r for r in readings if like & set(r[1])) or readings
    told = [f'"{name}": {dialects.tell_forks(forks)}' for name, forks in readings]
    if not told:
        return f"{problem}, and no fork that is known here has one"
    return f"{problem}; it may be {'; or '.join(told[:_SHOWN])}"
