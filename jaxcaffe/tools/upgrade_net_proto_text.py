"""Brings a net's prototxt to today's form: `upgrade_net_proto_text IN OUT`.

Follows tools/upgrade_net_proto_text.cpp of Caffe.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import Source, read_net, write_text
from jaxcaffe.proto.upgrade import upgrade_net_with_report
from jaxcaffe.tools import cli
from jaxcaffe.tools.upgrade import Upgrade, run_upgrade

DESCRIPTION = """\
Writes to OUT the net of the prototxt IN with `layer { type: "Convolution" }` in place
of `layers { type: CONVOLUTION }` or older forms, as Caffe of today reads it. Comments
are lost. A file of today is written as it is.

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
        "upgrade_net_proto_text",
        DESCRIPTION,
        "NetParameter text proto",
        read_net,
        upgrade,
        write_text,
    )


def upgrade(net: caffe_pb2.NetParameter, source: Source) -> Upgrade:
    """Returns the net in today's form, and what was done."""
    report = upgrade_net_with_report(net, source)
    return Upgrade(report.net, report.steps, report.problems)


if __name__ == "__main__":
    cli.run(main)
