"""The numbers of a run, whether it left a folder of ours or a log in Caffe's wording.

Stands in for tools/extra/parse_log.sh of Caffe, which plotting scripts call.
"""

from __future__ import annotations

import os

from jaxcaffe.curves.caffe_log import Event, read_log
from jaxcaffe.errors import DataError, describe
from jaxcaffe.log import read_scalars

Row = dict[str, float]
"""iter, and the numbers of that iteration: loss, lr, train/BLOB; or test0/BLOB."""

SCALARS = "scalars.jsonl"
LOG = "train.log"


def read_rows(path: str) -> list[Row]:
    """Returns the numbers of a run, in the order in which they came.

    Args:
      path: the workdir of a run, of which scalars.jsonl is read; or the log of a
        training, ours or Caffe's.

    Raises:
      DataError: neither.
    """
    if not os.path.isdir(path):
        return group_events(read_log(path))
    scalars = os.path.join(path, SCALARS)
    try:
        rows = read_scalars(scalars)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else f"is broken: {error}"
        raise DataError(
            describe(
                scalars,
                f"cannot be read: {why}" if isinstance(error, OSError) else str(why),
                "the workdir of a run, or a log",
            )
        ) from None
    if not all(isinstance(row, dict) and "iter" in row for row in rows):
        raise DataError(describe(scalars, "holds lines that are no numbers of a run"))
    # A blob of several values has a list of them, which is no point of a curve.
    return [
        {name: x for name, x in row.items() if isinstance(x, int | float)}
        for row in rows
    ]


def find_log(path: str) -> str:
    """Returns the path of a run's log, given that or its workdir."""
    return os.path.join(path, LOG) if os.path.isdir(path) else path


def group_events(events: list[Event]) -> list[Row]:
    """Returns rows as scalars.jsonl has them, a row for each step and each test."""
    rows: list[Row] = []
    kind = ""
    for event in events:
        net = event.name.partition("/")[0]
        group = net if net.startswith("test") else "train"
        if not rows or (group, event.iteration) != (kind, rows[-1]["iter"]):
            rows.append({"iter": event.iteration})
        kind = group
        rows[-1][event.name] = event.value
    return rows
