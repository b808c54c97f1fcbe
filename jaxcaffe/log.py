"""Log lines in Caffe's wording, so that parsers of Caffe's logs read ours.

Follows the messages of caffe/src/caffe/solver.cpp and glog's line prefix.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import threading
import time
import traceback
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxcaffe import errors

logger = logging.getLogger("jaxcaffe")

CONSTRUCTION = "jaxcaffe.construction"
"""Name of the logger of how nets are made; a hundred lines for a small one."""


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


class Memory(logging.Handler):
    """Keeps the lines that come before there is a file for them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one line."""
        self.records.append(record)


@contextlib.contextmanager
def remembering() -> Iterator[Memory]:
    """Yields the memory of what is logged, for `logging_to`."""
    memory = Memory()
    logger.addHandler(memory)
    try:
        yield memory
    finally:
        logger.removeHandler(memory)


@contextlib.contextmanager
def logging_to(
    path: str | None, memory: Memory | None = None, *, construction: bool = True
) -> Iterator[None]:
    """Sends the project's log to stderr, or appends it to the file `path`, as well.

    Args:
      path: a file in a folder that exists; None for stderr.
      memory: whose lines come first; it remembers no more from now on.
      construction: whether stderr gets the lines on how nets are made. A terminal never
        does: they would fill many screens.

    Raises:
      ConfigError: the file cannot be written.
    """
    handler: logging.Handler
    if path is None:
        handler = logging.StreamHandler(sys.stderr)
        if not construction or sys.stderr.isatty():
            handler.addFilter(lambda record: record.name != CONSTRUCTION)
    else:
        try:
            handler = logging.FileHandler(path)
        except OSError as error:
            raise errors.ConfigError(
                errors.describe(path, f"cannot be written ({error.strerror})")
            ) from error
    handler.setFormatter(GlogFormatter())
    logger.addHandler(handler)
    if memory is not None:
        logger.removeHandler(memory)
        for record in memory.records:
            handler.handle(record)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


@contextlib.contextmanager
def through(write: Callable[[str], object]) -> Iterator[None]:
    """Hands what would go to stderr to a function instead, line by line.

    Args:
      write: gets one line with its end at a time.
    """
    moved = [
        handler for handler in logger.handlers if type(handler) is logging.StreamHandler
    ]
    streams = [handler.setStream(_Stream(write)) for handler in moved]
    try:
        yield
    finally:
        for handler, stream in zip(moved, streams, strict=True):
            handler.setStream(stream)


class _Stream(io.TextIOBase):
    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def write(self, text: str) -> int:
        self._write(text)
        return len(text)


def quieten_libraries() -> None:
    """Keeps other packages' logs off the terminal; a command line calls this once.

    When a snapshot fails, Orbax reports it to us and the user reads one error; its
    threads and coroutines would print tracebacks beside it.
    """
    for name in ("absl", "asyncio", "concurrent.futures"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    print_thread, print_unraisable = threading.excepthook, sys.unraisablehook

    def skip_orbax_thread(arguments: threading.ExceptHookArgs) -> None:
        if not _is_orbax(arguments.exc_traceback):
            print_thread(arguments)

    def skip_orbax_coroutine(arguments: sys.UnraisableHookArgs) -> None:
        if not _is_orbax(arguments.exc_traceback):
            print_unraisable(arguments)

    threading.excepthook = skip_orbax_thread
    sys.unraisablehook = skip_orbax_coroutine
    warnings.filterwarnings("ignore", r"coroutine .* was never awaited", RuntimeWarning)
    # A full disk shows when a snapshot or the curves cannot be written.
    logging.raiseExceptions = False


def _is_orbax(trace: types.TracebackType | None) -> bool:
    # Nothing else here runs an asyncio loop.
    frames = traceback.extract_tb(trace)
    return any("orbax" in f.filename or "asyncio" in f.filename for f in frames)


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


class Scalars(NamedTuple):
    """A file of curves. Rows that cannot be written now wait for the next ones."""

    write: Callable[..., None]
    """(iteration: updates done before the values were taken, **name -> value) appends
    one JSON line of full-precision scalars."""

    flush: Callable[[], errors.SnapshotError | None]
    """Tries again to write what waits; returns why it still does."""


def open_scalars(path: str) -> Scalars:
    """Returns what appends curves to the `.jsonl` file `path`.

    A full disk costs a run no more than an error in its log: the rows wait in memory.

    Raises:
      SnapshotError: the file cannot be written at all.
    """
    waiting: list[str] = []
    failed = False

    def flush() -> errors.SnapshotError | None:
        nonlocal failed
        try:
            _append(path, "".join(waiting))
        except OSError as error:
            failure = errors.SnapshotError(
                errors.describe(
                    path, f"cannot be written ({error.strerror})", "a disk with room"
                )
            )
            if not failed:
                logger.error("%s The run goes on and keeps the curves.", failure)
            failed = True
            return failure
        waiting.clear()
        failed = False
        return None

    def write(iteration: int, **scalars: Scalar) -> None:
        waiting.append(json.dumps({"iter": iteration, **scalars}) + "\n")
        flush()

    try:
        _append(path, "")
    except OSError as error:
        raise errors.SnapshotError(
            errors.describe(path, f"cannot be written ({error.strerror})")
        ) from error
    return Scalars(write, flush)


def _append(path: str, text: str) -> None:
    """Adds whole lines to a file, or nothing."""
    with open(path, "ab", buffering=0) as file:
        size = file.tell()
        data = text.encode()
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            os.truncate(path, size)
            raise


def read_scalars(path: str) -> list[dict[str, Any]]:
    """Reads what `open_scalars` wrote; a last line cut short is left out."""
    rows = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                rows.append(json.loads(line))
    return rows


def start_scalars(path: str, iteration: int) -> None:
    """Makes `path` ready for a run that starts at `iteration`.

    A run from iteration 0 moves the curves of an earlier one aside, to the first free
    of PATH.1, PATH.2 and so on. A resumed run loses the rows that it writes anew.

    Raises:
      SnapshotError: the curves cannot be read or written.
    """
    if not os.path.exists(path):
        return
    try:
        if iteration == 0:
            number = 1
            while os.path.exists(f"{path}.{number}"):
                number += 1
            os.rename(path, f"{path}.{number}")
            return
        rows = [row for row in read_scalars(path) if row["iter"] < iteration]
        part = f"{path}.part"
        with open(part, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        os.replace(part, path)
    except (OSError, ValueError, KeyError) as error:
        raise errors.SnapshotError(
            errors.describe(path, f"cannot be continued ({error})", "a file of curves")
        ) from error
