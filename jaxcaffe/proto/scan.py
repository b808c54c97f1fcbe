"""Finds which field, message and line every token of a prototxt belongs to.

Follows the text format that google/protobuf/text_format.cc reads for Caffe.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)
    |(?P<string>"(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'?)
    |(?P<word>[\w.+-]+)
    |(?P<mark>.)""",
    re.VERBOSE,
)


class Frame(NamedTuple):
    """One message of the text: the root, or what stands between two braces."""

    field: str  # the field that holds it; "" for the root
    parent: int  # index of the frame around it; -1 for the root
    line: int  # where the field's name stands, or its brace inside [ ]
    mark: str  # "{", "<", or "" for the root


class Token(NamedTuple):
    """A word, string or mark. Comments and blanks are no tokens."""

    text: str
    line: int  # from 1
    column: int  # from 1
    role: str  # "field", "value", "open", "close" or "mark"
    frame: int  # index of the frame it stands in; for open and close the inner one
    field: str  # the field it names, fills or opens; "" if none


class Scan(NamedTuple):
    """What `scan` found."""

    tokens: tuple[Token, ...]
    frames: tuple[Frame, ...]
    unclosed: tuple[int, ...]  # frames without a closing brace, outermost first

    def path(self, frame: int) -> tuple[str, ...]:
        """Returns the field names that lead from the root to a frame."""
        names: list[str] = []
        while frame > 0:
            names.append(self.frames[frame].field)
            frame = self.frames[frame].parent
        return tuple(reversed(names))


class _State:
    """Where the scan is inside one frame."""

    def __init__(self, frame: int) -> None:
        self.frame = frame
        self.field = ""
        self.line = 0  # of the field's name
        self.wants_value = False
        self.in_list = False


def scan(text: str) -> Scan:
    """Splits a prototxt into tokens and tells what each is, right or wrong.

    Never fails: of a text that does not parse, it tells as much as it can, since the
    error message is built from it.

    Source: io::Tokenizer and TextFormat::Parser of protobuf. Differs: extensions,
    which Caffe's schema lacks, are not told from lists.
    """
    tokens: list[Token] = []
    frames = [Frame("", -1, 1, "")]
    stack = [_State(0)]
    line, line_start = 1, 0
    for match in _TOKEN.finditer(text):
        kind, token = match.lastgroup, match.group()
        if kind == "skip":
            if newlines := token.count("\n"):
                line += newlines
                line_start = match.start() + token.rindex("\n") + 1
            continue
        state = stack[-1]
        role = "mark"
        if kind == "string" or (
            kind == "word" and (state.wants_value or state.in_list)
        ):
            role, state.wants_value = "value", False
        elif kind == "word":
            role, state.field, state.line = "field", token, line
        elif token in "{<":
            role = "open"
            opened_at = line if state.in_list else state.line or line
            frames.append(Frame(state.field, state.frame, opened_at, token))
            state.wants_value = False
            stack.append(_State(len(frames) - 1))
        elif token in "}>":
            role = "close"
        elif token == ":":
            state.wants_value = True
        elif token in "[]":
            state.in_list, state.wants_value = token == "[", False
        inner = stack[-1].frame
        tokens.append(
            Token(token, line, match.start() - line_start + 1, role, inner, state.field)
        )
        if role == "close" and len(stack) > 1:
            stack.pop()
    return Scan(tuple(tokens), tuple(frames), tuple(s.frame for s in stack[1:]))


def layer_lines(scanned: Scan, net_frame: int, field: str) -> list[int]:
    """Returns the line on which each `layer {` (or `layers {`) of a net opens.

    Args:
      scanned: of a text that parses.
      net_frame: the frame of the net: 0, or that of an inline `net_param` of a solver.
      field: "layer" or "layers".

    Returns:
      One line number per layer, in file order, which is that of the parsed message.
    """
    return [
        frame.line
        for frame in scanned.frames
        if frame.parent == net_frame and frame.field == field
    ]


def frames_of(scanned: Scan, field: str) -> list[int]:
    """Returns the frames that a field of the root opens, in file order."""
    return [
        index
        for index, frame in enumerate(scanned.frames)
        if frame.parent == 0 and frame.field == field
    ]
