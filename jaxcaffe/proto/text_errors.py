"""Says in one line what is wrong with a prototxt, where, and what would do.

Follows the checks of google/protobuf/text_format.cc, not its wording.
"""

from __future__ import annotations

import bisect
import re

from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from jaxcaffe.errors import PrototxtError, describe, describe_layer, nearest
from jaxcaffe.proto import caffe_pb2, dialects
from jaxcaffe.proto.scan import Scan, Token

_ENUM_VALUES_LISTED = 10  # longer lists are cut to the nearest names
_NUMBER = re.compile(
    r"-?(?:0[xX][0-9a-fA-F]+|0[0-7]*|[1-9]\d*"
    r"|(?:(?:0|[1-9]\d*)\.\d*|(?:0|[1-9]\d*)(?=[eE])|\.\d+)(?:[eE][+-]?\d+)?[fF]?"
    r"|(?:0|[1-9]\d*)[fF]|[iI][nN][fF](?:inity)?|[nN][aA][nN])"
)
_STRING = re.compile(
    r"""(["'])(?:[^\\]|\\(?:[abfnrtv\\?'"]|[0-7]{1,3}|[xX][0-9a-fA-F]{1,2}"""
    r"""|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}))*\1"""
)
_ESCAPES = r"a backslash only before n, t, r, a quote, a backslash or 3 octal digits"
_SHOWN = 60  # characters of a value in a message
_OTHER_FILE = {
    "NetParameter": ("net", caffe_pb2.SolverParameter.DESCRIPTOR, "solver"),
    "SolverParameter": ("solver", caffe_pb2.NetParameter.DESCRIPTOR, "net"),
}


def build_parse_error(
    error: text_format.ParseError, scanned: Scan, root: Descriptor, name: str
) -> PrototxtError:
    """Turns protobuf's complaint into ours.

    Args:
      error: what text_format.Parse raised.
      scanned: the same text.
      root: the type of the whole text.
      name: the file's name.

    Returns:
      `{name}:{line}: {problem}. Accepted: {...}.`, ready to raise.
    """
    where = (error.GetLine() or 1, error.GetColumn() or 1)
    places = [(token.line, token.column) for token in scanned.tokens]
    index = bisect.bisect_right(places, where) - 1
    if index < 0:
        return PrototxtError(describe(f"{name}:{where[0]}", _plain(error)))
    if fork_error := _explain_fork(scanned.tokens[index], scanned, root, name):
        return fork_error
    line, problem, accepted = _explain(index, error, scanned, root)
    return PrototxtError(describe(f"{name}:{line}", problem, accepted))


def check_strings(scanned: Scan, name: str) -> None:
    r"""Refuses escapes that Python reads and Caffe does not.

    Raises:
      PrototxtError: an escape such as \d, as in an unescaped Windows path.

    Source: io::Tokenizer::ConsumeString of protobuf.
    """
    for token in scanned.tokens:
        quote = _quote(token)
        ends = quote and len(token.text) > 1 and token.text[-1] == quote
        if ends and not _STRING.fullmatch(token.text):
            raise _refuse(token, name, _ESCAPES)


def check_numbers(scanned: Scan, name: str) -> None:
    """Refuses numbers that Python reads and Caffe does not.

    Raises:
      PrototxtError: a number such as 1_000, +5, 0b11 or 0o17.

    Source: io::Tokenizer::ConsumeNumber of protobuf.
    """
    for token in scanned.tokens:
        is_number = token.role == "value" and token.text[0] in "+-.0123456789"
        if is_number and not _NUMBER.fullmatch(token.text):
            raise _refuse(token, name, "a number such as 5, -0.5, 1e-3 or 0x1F")


def _refuse(token: Token, name: str, accepted: str) -> PrototxtError:
    problem = f"{token.field} is {_cut(token.text)}, which Caffe does not read"
    return PrototxtError(describe(f"{name}:{token.line}", problem, accepted))


def _quote(token: Token) -> str:
    return token.text[0] if token.text[0] in "\"'" else ""


def _explain_fork(
    token: Token, scanned: Scan, root: Descriptor, name: str
) -> PrototxtError | None:
    """Returns the error for a field or value that only forks of Caffe have."""
    message = _message_type(scanned, token.frame, root)
    if message is None:
        return None
    if token.role == "field":
        forks = dialects.field_forks(message, token.text)
        problem = f'{message.name} of Caffe 1.0 has no field "{token.text}"'
        if _missing_brace(token, scanned, root):
            return None
        instead = dialects.field_instead(message, token.text)
        accepted = instead or "the fields of Caffe 1.0"
    else:
        field = message.fields_by_name.get(token.field)
        if token.role != "value" or field is None or field.enum_type is None:
            return None
        forks = dialects.value_forks(field.enum_type, token.text)
        problem = f"{field.name} is {token.text}, which Caffe 1.0 lacks"
        few = len(field.enum_type.values) <= _ENUM_VALUES_LISTED
        accepted = accepted_values(field) if few else "the values of Caffe 1.0"
    if not forks:
        return None
    where = f"{name}:{token.line}"
    problem += f"; {dialects.tell_forks(forks)}"
    layer = _layer_of(token, scanned)
    if layer is None:
        return PrototxtError(describe(where, problem, accepted))
    return PrototxtError(describe_layer(where, *layer, problem, accepted))


def _layer_of(token: Token, scanned: Scan) -> tuple[str, str] | None:
    """Returns name and type of the layer around a token, as far as they are written."""
    frame = token.frame
    while frame > 0 and scanned.frames[frame].field not in ("layer", "layers"):
        frame = scanned.frames[frame].parent
    if frame <= 0:
        return None
    said = {"name": "", "type": ""}
    for other in scanned.tokens:
        if other.frame == frame and other.role == "value" and other.field in said:
            said[other.field] = said[other.field] or other.text.strip("\"'")
    return said["name"], said["type"] or "no type"


def _explain(
    index: int, error: text_format.ParseError, scanned: Scan, root: Descriptor
) -> tuple[int, str, str]:
    """Returns (line, problem, accepted) for the token where parsing stopped."""
    token = scanned.tokens[index]
    previous = scanned.tokens[index - 1] if index else None
    outer = token.frame
    if token.role == "open" and outer > 0:
        outer = scanned.frames[outer].parent
    message = _message_type(scanned, outer, root)
    if message is None:
        return token.line, _plain(error), ""
    quote = _quote(token)
    if quote and (len(token.text) < 2 or token.text[-1] != quote):
        return token.line, f"{token.field}: a string does not end", f"a closing {quote}"
    if token.role == "close" and (trouble := _close_trouble(token, scanned)):
        return trouble
    if previous and previous.role == "field" and token.role in ("field", "value"):
        return _no_value(previous, _cut(token.text), message)
    if token.role == "field" and token.text not in message.fields_by_name:
        return _unknown_field(token, message, scanned, root)
    if index == len(scanned.tokens) - 1 and token.role != "value":
        if token.role == "field" or token.text == ":":
            return _no_value(token, "the end of the file", message)
        if scanned.unclosed:
            return _unclosed(scanned, token.line)
    if "Expected identifier" in str(error):
        problem = f"{_cut(token.text)} stands where the name of a field is expected"
        return token.line, problem, nearest("", message.fields_by_name)
    field = message.fields_by_name.get(token.field)
    if field is None:
        return token.line, _plain(error), ""
    if token.role in ("value", "open") and not field.is_repeated:
        same = [
            t.line
            for t in scanned.tokens[:index]
            if t.role == "field" and t.text == field.name and t.frame == outer
        ]
        if len(same) > 1:
            problem = f"{field.name} of {message.name} is set twice, first on line "
            return token.line, f"{problem}{same[0]}", f"{field.name} once"
    if token.role == "value" and field.message_type is None:
        if index == len(scanned.tokens) - 1 and scanned.unclosed and _ends(error):
            return _unclosed(scanned, token.line)
        problem = f"{field.name} is {_cut(token.text)}"
        return token.line, problem, accepted_values(field, token.text)
    after_value = previous is not None and previous.role in ("value", "close")
    if token.role == "mark" and after_value:
        problem = f'"{token.text}" is out of place after {field.name}'
        return token.line, problem, "the name of a field"
    return _no_value(token, _cut(token.text), message)


def accepted_values(field: FieldDescriptor, given: str = "") -> str:
    """Says what a scalar field takes; of a long enum, the names nearest to `given`."""
    if field.enum_type is not None:
        names = [value.name for value in field.enum_type.values]
        few = len(names) <= _ENUM_VALUES_LISTED
        return ", ".join(names) if few else nearest(given, names)
    return {
        FieldDescriptor.CPPTYPE_INT32: "a whole number of at most 32 bits",
        FieldDescriptor.CPPTYPE_INT64: "a whole number of at most 64 bits",
        FieldDescriptor.CPPTYPE_UINT32: "a whole number from 0 to 4294967295",
        FieldDescriptor.CPPTYPE_UINT64: "a whole number from 0 to 2^64 - 1",
        FieldDescriptor.CPPTYPE_FLOAT: "a number such as 0.5 or 1e-3",
        FieldDescriptor.CPPTYPE_DOUBLE: "a number such as 0.5 or 1e-3",
        FieldDescriptor.CPPTYPE_BOOL: "true, false",
        FieldDescriptor.CPPTYPE_STRING: 'text in quotes, such as "conv1"',
    }[field.cpp_type]


def _message_type(scanned: Scan, frame: int, root: Descriptor) -> Descriptor | None:
    message: Descriptor | None = root
    for name in scanned.path(frame):
        field = message.fields_by_name.get(name) if message else None
        message = field.message_type if field else None
    return message


def _unknown_field(
    token: Token, message: Descriptor, scanned: Scan, root: Descriptor
) -> tuple[int, str, str]:
    problem = f'{message.name} has no field "{token.text}"'
    if token.frame == 0 and message.name in _OTHER_FILE:
        this, other, kind = _OTHER_FILE[message.name]
        if token.text in other.fields_by_name:
            problem += f"; it belongs to a {kind}, and a {this} was expected here"
            return token.line, problem, f"a {this} file"
    if brace := _missing_brace(token, scanned, root):
        return token.line, problem + brace, f'"}}" before {token.text}'
    return token.line, problem, nearest(token.text, message.fields_by_name)


def _missing_brace(token: Token, scanned: Scan, root: Descriptor) -> str:
    """Tells of the message around that has the field, or "" if none does."""
    frame = token.frame
    while frame > 0:
        inner, frame = scanned.frames[frame], scanned.frames[frame].parent
        around = _message_type(scanned, frame, root)
        if around is not None and token.text in around.fields_by_name:
            return (
                f'; {around.name} has: "{inner.field} {inner.mark}" of line '
                f"{inner.line} may lack its closing brace"
            )
    return ""


def _no_value(name: Token, found: str, message: Descriptor) -> tuple[int, str, str]:
    field = message.fields_by_name.get(name.field)
    if field is None:
        return name.line, f'{message.name} has no field "{name.field}"', ""
    if field.message_type is not None:
        accepted = f"{field.name} {{ ... }}"
    elif found == "[" and not field.is_repeated:
        problem = f"{field.name} is a list, where Caffe 1.0 takes one value"
        forks = dialects.list_forks(message, field.name)
        problem += f"; {dialects.tell_forks(forks)}" if forks else ""
        return name.line, problem, accepted_values(field)
    else:
        accepted = f'":" and {accepted_values(field)}'
    return name.line, f"{field.name} is followed by {found}", accepted


def _cut(value: str) -> str:
    return value if len(value) <= _SHOWN else value[:_SHOWN] + "..."


def _ends(error: text_format.ParseError) -> bool:
    return 'Expected "}"' in str(error) or 'Expected ">"' in str(error)


def _close_trouble(token: Token, scanned: Scan) -> tuple[int, str, str] | None:
    if token.frame == 0:
        return token.line, f'"{token.text}" closes nothing', "as many } as {"
    frame = scanned.frames[token.frame]
    matching = {"{": "}", "<": ">"}[frame.mark]
    if token.text == matching:
        return None
    problem = f'"{token.text}" closes "{frame.field} {frame.mark}" of line {frame.line}'
    return token.line, problem, f'"{matching}"'


def _unclosed(scanned: Scan, line: int) -> tuple[int, str, str]:
    frame = scanned.frames[scanned.unclosed[-1]]
    problem = (
        f'the file ends inside "{frame.field} {frame.mark}" of line {frame.line}: '
        "a closing brace is missing"
    )
    return line, problem, {"{": '"}"', "<": '">"'}[frame.mark]


def _plain(error: text_format.ParseError) -> str:
    """Protobuf's own words, without the position, for what we have no words for."""
    text = re.sub(r"^\d+:\d+ : ", "", str(error))
    return re.sub(r"^'.*': ", "", text, flags=re.DOTALL).rstrip(".")
