"""Turns a training log into two tables: `parse_log LOG OUT_DIR`.

Follows tools/extra/parse_log.py of Caffe.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from jaxcaffe.curves.caffe_log import read_log
from jaxcaffe.curves.table import tabulate, write_csv
from jaxcaffe.errors import ConfigError, describe
from jaxcaffe.tools import cli

DESCRIPTION = """\
Writes OUT_DIR/LOG.train and OUT_DIR/LOG.test, comma-separated tables of what a training
logged, Caffe's or ours: NumIters (iterations), Seconds since the start, LearningRate,
and each output of the net.

  parse_log runs/digits/train.log ."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: the arguments without the program's name; None takes the process's.

    Returns:
      0.

    Raises:
      CaffeError: wrong flags, no training log, a table exists or cannot be written.

    Source: caffe/tools/extra/parse_log.py. Differs: see curves.caffe_log.read_log and
    curves.table; tables that exist are replaced only with --overwrite.
    """
    parser = cli.Parser("parse_log", DESCRIPTION)
    parser.argument("LOG", "the log of a training")
    parser.argument("OUT_DIR", "the folder for the tables")
    parser.flag("verbose", False, "tell what is written")
    parser.flag("delimiter", ",", "what stands between two columns, one character")
    parser.flag("overwrite", False, "replace tables that exist")
    flags = parser.parse(argv)
    if len(flags.delimiter) != 1 or flags.delimiter in '\r\n"':
        raise ConfigError(
            describe("--delimiter", f'is "{flags.delimiter}"', "one character, as ;")
        )
    if not os.path.isdir(flags.OUT_DIR):
        raise ConfigError(describe(flags.OUT_DIR, "is no folder", "one that exists"))
    events = read_log(flags.LOG)
    base = os.path.join(flags.OUT_DIR, os.path.basename(flags.LOG))
    tables = {f"{base}.{net}": tabulate(events, net) for net in ("train", "test")}
    for path, rows in tables.items():
        if rows:  # both or none
            cli.refuse_existing(path, flags.overwrite)
    for path, rows in tables.items():
        if rows:
            cli.write_file(path, write_csv(rows, flags.delimiter), flags.overwrite)
        if flags.verbose:
            print(f"Wrote {path}" if rows else f"Not writing {path}; no lines to write")
    return 0


if __name__ == "__main__":
    cli.run(main)
