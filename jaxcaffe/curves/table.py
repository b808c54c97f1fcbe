"""The tables of parse_log: a row for each displayed iteration, and for each test.

Follows tools/extra/parse_log.py of Caffe.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from jaxcaffe.curves.caffe_log import Event

Row = dict[str, float]
"""NumIters, Seconds, LearningRate, and a column for each output of the net."""

_KEYS = ("NumIters", "Seconds", "LearningRate")


def tabulate(events: Iterable[Event], net: str) -> list[Row]:
    """Returns a row for each time that the outputs of a net were logged.

    Args:
      events: of read_log.
      net: "train" or "test"; the outputs of all test nets go to one table, as Caffe's
        script has it.

    Source: caffe/tools/extra/parse_log.py, parse_line_for_net_output and
    fix_initial_nan_learning_rate. Differs: a log with a single row gives it.
    """
    rows: list[Row] = []
    row: Row = {}
    for event in events:
        kind, slash, output = event.name.partition("/")
        if not slash or kind.rstrip("0123456789") != net:
            continue
        if not row or row["NumIters"] != event.iteration:
            if row:
                rows.append(row)
            values = (float(event.iteration), event.seconds, event.learning_rate)
            row = dict(zip(_KEYS, values, strict=True))
        row[output] = event.value
        # As wide as the first one, it is whole: a second test net begins another.
        if rows and len(row) == len(rows[0]):
            rows.append(row)
            row = {}
    if row and not rows:
        rows.append(row)
    if len(rows) > 1:
        # The first numbers are logged before the first rate is.
        rows[0]["LearningRate"] = rows[1]["LearningRate"]
    return rows


def write_csv(rows: list[Row], delimiter: str = ",") -> bytes:
    """Returns a table as a file's content: a line of names, a line for each row.

    Source: caffe/tools/extra/parse_log.py, write_csv. Differs: columns that the first
    row lacks are written too.
    """
    out = io.StringIO(newline="")
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(out, fieldnames=list(names), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()
