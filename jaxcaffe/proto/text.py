"""Reads net and solver prototxts, and remembers the line of every layer.

Follows Caffe's src/caffe/util/io.cpp (ReadProtoFromTextFile).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from jaxcaffe.errors import PrototxtError, describe
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.files import read_bytes
from jaxcaffe.proto.printer import format_message, write_text
from jaxcaffe.proto.scan import Scan, frames_of, layer_lines, scan
from jaxcaffe.proto.text_errors import build_parse_error, check_numbers, check_strings

__all__ = [
    "Source",
    "format_message",
    "parse_message",
    "parse_net",
    "parse_solver",
    "read_net",
    "read_solver",
    "write_text",
]

_INLINE_NETS = ("net_param", "train_net_param", "test_net_param")
_NO_TEXT = re.compile("[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff]")
_MessageT = TypeVar("_MessageT", bound=Message)


class Source(NamedTuple):
    """Where the layers of a net were written."""

    path: str
    lines: Mapping[str, tuple[int, ...]]  # layer name -> lines of its occurrences
    inline: Mapping[tuple[str, int], Source] = {}  # nets in a solver

    def locate(self, layer_name: str, occurrence: int = 0) -> str:
        """Returns "path:line" of a layer, or the path alone when it is unknown.

        Args:
          layer_name: `name` of the layer as written in the file.
          occurrence: which of the layers of that name, in file order, from 0.
        """
        lines = self.lines.get(layer_name, ())
        known = 0 <= occurrence < len(lines)
        return f"{self.path}:{lines[occurrence]}" if known else self.path

    def net(self, field: str, index: int = 0) -> Source:
        """Returns the Source of a net written inside a solver.

        Args:
          field: "net_param", "train_net_param" or "test_net_param".
          index: which `test_net_param`, in file order, from 0.
        """
        return self.inline.get((field, index), Source(self.path, {}))


def read_net(
    path: str | os.PathLike[str],
) -> tuple[caffe_pb2.NetParameter, Source]:
    """Reads a net as it is written: neither upgraded nor filtered.

    Raises:
      PrototxtError: the file is missing, empty or no text, or does not parse.

    Source: src/caffe/util/upgrade_proto.cpp, ReadNetParamsFromTextFileOrDie, without
      the upgrade.
    """
    return parse_net(_read_text(path), os.fspath(path))


def read_solver(
    path: str | os.PathLike[str],
) -> tuple[caffe_pb2.SolverParameter, Source]:
    """Reads a solver as it is written: not upgraded, snapshot_prefix untouched.

    Raises:
      PrototxtError: the file is missing, empty or no text, or does not parse.

    Source: src/caffe/util/upgrade_proto.cpp, ReadSolverParamsFromTextFileOrDie,
      without the upgrade.
    """
    return parse_solver(_read_text(path), os.fspath(path))


def parse_net(text: str, name: str) -> tuple[caffe_pb2.NetParameter, Source]:
    """Parses a net; `name` stands for the file in errors and in the Source.

    Raises:
      PrototxtError: as `parse_message`.
    """
    scanned = scan(text)
    net = _parse(text, scanned, caffe_pb2.NetParameter(), name)
    return net, Source(name, _layer_lines(scanned, 0, net))


def parse_solver(text: str, name: str) -> tuple[caffe_pb2.SolverParameter, Source]:
    """Parses a solver; `name` stands for the file in errors and in the Source.

    Raises:
      PrototxtError: as `parse_message`.
    """
    scanned = scan(text)
    solver = _parse(text, scanned, caffe_pb2.SolverParameter(), name)
    inline: dict[tuple[str, int], Source] = {}
    lines: dict[str, tuple[int, ...]] = {}
    for field in _INLINE_NETS:
        value = getattr(solver, field)
        frames = frames_of(scanned, field)
        nets = value if field == "test_net_param" else [value] * len(frames)
        for index, (frame, net) in enumerate(zip(frames, nets, strict=True)):
            found = _layer_lines(scanned, frame, net)
            inline[field, index] = Source(name, found)
            for layer, numbers in found.items():
                lines[layer] = tuple(sorted(lines.get(layer, ()) + numbers))
    return solver, Source(name, lines, inline)


def parse_message(text: str, message: _MessageT, name: str) -> _MessageT:
    """Fills an empty message of any type of the schema from text, and returns it.

    Accepts what Caffe accepts, bytes of other encodings in comments included.

    Args:
      text: in protobuf's text format.
      message: is filled.
      name: stands for the file in errors.

    Raises:
      PrototxtError: `name:line: ...` for an unknown field, a value of another type,
        a field set twice, a brace too many or too few, a missing required field.

    Source: TextFormat::Parse of protobuf. Differs: `- 5`, with a blank, is refused;
      an empty text is refused.
    """
    return _parse(text, scan(text), message, name)


def _parse(text: str, scanned: Scan, message: _MessageT, name: str) -> _MessageT:
    if not scanned.tokens:
        raise PrototxtError(describe(name, "the file says nothing"))
    for token in scanned.tokens:
        if _NO_TEXT.search(token.text):
            raise PrototxtError(
                describe(
                    f"{name}:{token.line}",
                    "not a text file in UTF-8",
                    "a prototxt; other encodings only in comments",
                )
            )
    check_strings(scanned, name)
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise build_parse_error(error, scanned, message.DESCRIPTOR, name) from None
    check_numbers(scanned, name)
    if missing := message.FindInitializationErrors():
        raise PrototxtError(_describe_required(missing[0], message, scanned, name))
    return message


def _describe_required(missing: str, message: Message, scanned: Scan, name: str) -> str:
    """Locates a missing required field, written as `layer[3].clip_param.min`."""
    *path, field = missing.split(".")
    frame = 0
    for step in path:
        step_field, _, index = step.partition("[")
        inner = [
            i
            for i, f in enumerate(scanned.frames)
            if f.parent == frame and f.field == step_field
        ]
        frame = inner[int(index[:-1]) if index else 0]
    where = f"{name}:{scanned.frames[frame].line}"
    place = scanned.frames[frame].field or message.DESCRIPTOR.name
    return describe(where, f"{place} lacks {field}", f"{field}: with a value")


def _layer_lines(
    scanned: Scan, frame: int, net: caffe_pb2.NetParameter
) -> dict[str, tuple[int, ...]]:
    """Returns layer name -> lines, in file order; V0 names stand one level deeper."""
    named = list(
        zip(
            layer_lines(scanned, frame, "layer"),
            [x.name for x in net.layer],
            strict=True,
        )
    )
    old_names = [x.layer.name if x.HasField("layer") else x.name for x in net.layers]
    named += zip(layer_lines(scanned, frame, "layers"), old_names, strict=True)
    lines: dict[str, tuple[int, ...]] = {}
    for line, layer in sorted(named):
        lines[layer] = (*lines.get(layer, ()), line)
    return lines


def _read_text(path: str | os.PathLike[str]) -> str:
    # Comments may hold any bytes, as for Caffe: they travel as lone surrogates.
    data = read_bytes(path, PrototxtError)
    return data.decode("utf-8-sig", errors="surrogateescape")
