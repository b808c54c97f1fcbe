"""Brings a .caffemodel to today's form: `upgrade_net_proto_binary IN OUT`.

Follows tools/upgrade_net_proto_binary.cpp of Caffe.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message

from jaxcaffe.errors import SnapshotError
from jaxcaffe.proto import binary, caffe_pb2, unknown
from jaxcaffe.proto.text import Source
from jaxcaffe.tools import cli
from jaxcaffe.tools.upgrade import run_upgrade
from jaxcaffe.tools.upgrade_net_proto_text import upgrade

DESCRIPTION = """\
Writes to OUT the net and weights of the binary file IN in the form that Caffe writes
today. A file of today is written as it is. A file with fields that only a fork of Caffe
has is refused, as they would be lost.

Exit status: 0; 1 if something of IN had to be left out; 2 if IN does not parse; 134 if
IN is missing or cannot be upgraded."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: the arguments without the program's name; None takes the process's.

    Returns:
      See `run_upgrade`.

    Raises:
      CaffeError: wrong flags, OUT exists or cannot be written.
    """
    return run_upgrade(
        argv,
        "upgrade_net_proto_binary",
        DESCRIPTION,
        "NetParameter binary proto",
        _read,
        upgrade,
        _write,
    )


def _read(path: str) -> tuple[caffe_pb2.NetParameter, Source]:
    net = binary.read_message(path, caffe_pb2.NetParameter())
    unknown.refuse_unknown(net, path, SnapshotError)
    return net, Source(path, {})


def _write(path: str, net: Message) -> None:
    binary.write_message(path, net)


if __name__ == "__main__":
    cli.run(main)
