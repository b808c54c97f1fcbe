"""What the commands that upgrade old files share: read, upgrade, write, exit status.

Follows tools/upgrade_net_proto_text.cpp of Caffe, of which the others are variants.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from google.protobuf.message import Message

from jaxcaffe.errors import CaffeError
from jaxcaffe.proto.text import Source
from jaxcaffe.tools import cli

PARTLY, UNREADABLE, FATAL = 1, 2, 134
"""Exit statuses of Caffe's commands: something was left out, IN does not parse, and a
failed check, which ends Caffe by a signal."""

_MessageT = TypeVar("_MessageT", bound=Message)


class Upgrade(NamedTuple):
    """What became of a file."""

    message: Message
    steps: tuple[str, ...]  # what it was upgraded from; empty if it is of today
    problems: tuple[str, ...]  # what had to be left out


def run_upgrade(
    argv: Sequence[str] | None,
    prog: str,
    description: str,
    kind: str,
    read: Callable[[str], tuple[_MessageT, Source]],
    upgrade: Callable[[_MessageT, Source], Upgrade],
    write: Callable[[str, Message], None],
) -> int:
    """Runs one of the commands.

    Args:
      argv: the arguments without the program's name; None takes the process's.
      prog: the command's name.
      description: for --help.
      kind: what the file holds, as "NetParameter text proto".
      read: from IN to the message as it is written, and where it was written.
      upgrade: may raise what Caffe's command dies of.
      write: to OUT.

    Returns:
      0; 1 if parts of IN had to be left out, though OUT was written; 2 if IN does not
      parse; 134 if IN is missing or cannot be upgraded. Nothing is raised for IN, so
      that the status is Caffe's.

    Raises:
      CaffeError: wrong flags, OUT exists or cannot be written.

    Source: tools/upgrade_net_proto_text.cpp, main. Differs: OUT is not replaced
    unless --overwrite is given.
    """
    parser = cli.Parser(prog, description)
    parser.argument("IN", "the old file")
    parser.argument("OUT", "the file to make")
    parser.flag("overwrite", False, "replace OUT if it exists, which may be IN")
    flags = parser.parse(argv)
    path_in, path_out = getattr(flags, "IN"), getattr(flags, "OUT")  # noqa: B009
    try:
        message, source = read(path_in)
    except CaffeError as error:
        cli.say(str(error))
        return UNREADABLE if os.path.isfile(path_in) else FATAL
    try:
        done = upgrade(message, source)
    except CaffeError as error:
        cli.say(str(error))
        return FATAL
    cli.refuse_existing(path_out, flags.overwrite)
    for step in done.steps:
        cli.say(f"Upgraded {path_in} from deprecated {step}")
    if not done.steps:
        cli.say(f"File already in latest proto format: {path_in}")
    for problem in done.problems:
        cli.say(f"Left out: {problem}")
    write(path_out, done.message)
    cli.say(f"Wrote upgraded {kind} to {path_out}")
    return PARTLY if done.problems else 0
