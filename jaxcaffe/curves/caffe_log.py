"""Numbers of a training log in Caffe's wording: ours, and Caffe's own.

Follows tools/extra/parse_log.py and tools/extra/extract_seconds.py of Caffe.
"""

from __future__ import annotations

import datetime
import os
import re
from typing import NamedTuple

from jaxcaffe.errors import DataError, describe

# Newer versions of glog begin with the year.
_PREFIX = re.compile(r"[IWEF](\d{4})?(\d\d)(\d\d) (\d+):(\d+):(\d+)\.(\d+)\s")
_ITERATION = re.compile(r"Iteration (\d+)")
_NUMBER = r"([-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|inf))(?![\w.])"
_LOSS = re.compile(rf"Iteration \d+(?: \(.*\))?, loss = {_NUMBER}")
_RATE = re.compile(rf"lr = {_NUMBER}")
_TESTING = re.compile(r"Testing net \(#(\d+)\)")
_OUTPUT = re.compile(rf"(Train|Test) net output #\d+: (\S+) = {_NUMBER}")


class Event(NamedTuple):
    """One number of a log."""

    iteration: int
    seconds: float  # since the line "Solving NET"
    learning_rate: float  # the last one logged; NaN before the first
    name: str  # "loss" (over average_loss), "lr", "train/BLOB" or "test0/BLOB"
    value: float


def read_log(path: str) -> list[Event]:
    """Returns the numbers of a training log, in its order.

    Args:
      path: the file; its last change tells the year of its first line, as the lines
        themselves do not.

    Raises:
      DataError: the file cannot be read, or is no log of a training.

    Source: caffe/tools/extra/parse_log.py, parse_log; caffe/tools/extra/
    extract_seconds.py. Differs: NaN and infinity are numbers too, and
    the year of a line is read where it has one.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
        year = datetime.datetime.fromtimestamp(os.stat(path).st_mtime).year
    except OSError as error:
        raise DataError(
            describe(path, f"cannot be read: {error.strerror}", "a training log")
        ) from None
    starts = (i for i, line in enumerate(lines) if "Solving" in line)
    first = next((i for i in starts if _read_time(lines[i], year)), None)
    if first is None:
        what = 'holds no line "Solving ...", with which Caffe\'s training begins'
        raise DataError(describe(path, what, "the log of a training"))
    start = _read_time(lines[first], year)
    assert start is not None
    return _collect(lines[first + 1 :], start)


def _collect(lines: list[str], start: datetime.datetime) -> list[Event]:
    events: list[Event] = []
    last = start
    iteration, rate, test_net = -1, float("nan"), "0"
    for line in lines:
        found = _ITERATION.search(line)
        if found:
            iteration = int(found[1])
        time = _read_time(line, last.year)
        if iteration < 0 or time is None:
            continue
        if time < last and time.month < last.month:  # a new year
            time = time.replace(year=last.year + 1)
        last = time
        seconds = (time - start).total_seconds()
        found = _TESTING.search(line)
        if found:
            test_net = found[1]
        named: list[tuple[str, str]] = []
        found = _LOSS.search(line)
        if found:
            named.append(("loss", found[1]))
        found = _RATE.search(line)
        if found:
            rate = float(found[1])
            named.append(("lr", found[1]))
        found = _OUTPUT.search(line)
        if found:
            net = "train" if found[1] == "Train" else f"test{test_net}"
            named.append((f"{net}/{found[2]}", found[3]))
        events += [Event(iteration, seconds, rate, n, float(v)) for n, v in named]
    return events


def _read_time(line: str, year: int) -> datetime.datetime | None:
    """Returns the time in glog's prefix, None where there is none."""
    found = _PREFIX.match(line)
    if found is None:
        return None
    if found[1]:
        year = int(found[1])
    month, day, hour, minute, second, micro = map(int, found.groups()[1:])
    try:
        return datetime.datetime(year, month, day, hour, minute, second, micro)
    except ValueError:  # such as the 29th of February in the wrong year
        return None
