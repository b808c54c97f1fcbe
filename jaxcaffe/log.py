"""Log lines in Caffe's wording, so that parsers of Caffe's logs read ours.

Follows the messages of caffe/src/caffe/solver.cpp and glog's line prefix.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxcaffe import errors

logger = logging.getLogger("jaxcaffe")


class GlogFormatter(logging.Formatter):
    """Formats `I1122 21:10:59.587841 27196 loop.py:80] message`."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line; only its first line carries the prefix, as in glog."""
        stamp = time.strftime("%m%d %H:%M:%S", time.localtime(record.created))
        micro = int(record.created % 1 * 1e6)
        return (
            f"{record.levelname[0]}{stamp}.{micro:06d} {threading.get_native_id()} "
            f"{record.filename}:{record.lineno}] {record.getMessage()}"
        )


@contextlib.contextmanager
def logging_to(path: str | None) -> Iterator[None]:
    """Sends the project's log to stderr, and appends it to `path` if given."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if path is not None:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        handlers.append(logging.FileHandler(path))
    for handler in handlers:
        handler.setFormatter(GlogFormatter())
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            with contextlib.suppress(OSError):
                handler.close()


def quieten_libraries() -> None:
    """Keeps other packages' logs off the terminal; a command line calls this once.

    What goes wrong inside them reaches the user as one error of ours; their threads
    would print tracebacks beside it.
    """
    for name in ("absl", "asyncio", "concurrent.futures"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    threading.excepthook = lambda arguments: None
    sys.unraisablehook = lambda arguments: None
    # A full disk shows when a snapshot or the curves cannot be written.
    logging.raiseExceptions = False


def iteration_line(
    iteration: int, rate: float, seconds: float, iterations: int, loss: float
) -> str:
    """Returns the line of a displayed iteration.

    Args:
      iteration: the iteration whose loss this is, counted from 0.
      rate: iterations per second since the last such line.
      seconds: time since the last such line, s.
      iterations: the solver's `display`.
      loss: smoothed over average_loss iterations.
    """
    return (
        f"Iteration {iteration} ({rate:g} iter/s, {seconds:g}s/{iterations} iters), "
        f"loss = {loss:g}"
    )


def output_lines(
    head: str, outputs: Mapping[str, np.ndarray], loss_weights: Mapping[str, float]
) -> Iterator[str]:
    """Yields a line for each element of each net output.

    Args:
      head: "Train" or "Test".
      outputs: output blob -> values, in the net's output order.
      loss_weights: blob -> loss weight, for the blobs that have one.
    """
    number = 0
    for name, values in outputs.items():
        weight = loss_weights.get(name, 0.0)
        for value in np.ravel(values):
            share = f" (* {weight:g} = {weight * value:g} loss)" if weight else ""
            yield f"    {head} net output #{number}: {name} = {value:g}{share}"
            number += 1


def score_lines(outputs: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Yields the tutorial's `Test score #k: value` for each test output element."""
    values = (v for blob in outputs.values() for v in np.ravel(blob))
    for number, value in enumerate(values):
        yield f"Test score #{number}: {value:g}"


Scalar = float | list[float]
"""A value of a curve, or one per element of a blob."""


def write_scalars(path: str, iteration: int, **scalars: Scalar) -> None:
    """Appends one JSON line of full-precision scalars to `path`.

    Args:
      path: a `.jsonl` file.
      iteration: updates done before the values were taken.
      **scalars: name -> value.

    Raises:
      SnapshotError: the disk is full, or the folder may not be written.
    """
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"iter": iteration, **scalars}) + "\n")
    except OSError as error:
        raise errors.SnapshotError(
            errors.describe(path, f"cannot be written ({error.strerror})")
        ) from error


def read_scalars(path: str) -> list[dict[str, Any]]:
    """Reads what `write_scalars` wrote; a last line cut short is left out."""
    rows = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                rows.append(json.loads(line))
    return rows


def drop_scalars_from(path: str, iteration: int) -> None:
    """Removes rows at or after `iteration`: a resumed run writes them anew."""
    if not os.path.exists(path):
        return
    rows = [row for row in read_scalars(path) if row["iter"] < iteration]
    part = f"{path}.part"
    with open(part, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    os.replace(part, path)
