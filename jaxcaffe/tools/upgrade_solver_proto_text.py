"""Brings a solver's prototxt to today's form: `upgrade_solver_proto_text IN OUT`.

Follows tools/upgrade_solver_proto_text.cpp of Caffe.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import Source, read_solver, write_text
from jaxcaffe.proto.upgrade import needs_solver_upgrade, upgrade_solver
from jaxcaffe.tools import cli
from jaxcaffe.tools.upgrade import Upgrade, run_upgrade

DESCRIPTION = """\
Writes to OUT the solver of the prototxt IN with `type: "Nesterov"` in place of
`solver_type: NESTEROV`. Comments are lost. Nets inside the solver stay as they are, and
so does a file of today.

Exit status: 0; 2 if IN does not parse; 134 if IN is missing or cannot be upgraded."""


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
        "upgrade_solver_proto_text",
        DESCRIPTION,
        "SolverParameter text proto",
        read_solver,
        _upgrade,
        write_text,
    )


def _upgrade(solver: caffe_pb2.SolverParameter, source: Source) -> Upgrade:
    steps = ("solver_type",) if needs_solver_upgrade(solver) else ()
    return Upgrade(upgrade_solver(solver, source), steps, ())


if __name__ == "__main__":
    cli.run(main)
