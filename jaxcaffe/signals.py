"""SIGINT and SIGTERM ask for a snapshot and the end, SIGHUP for a snapshot.

Follows caffe/src/caffe/util/signal_handler.cpp; SIGTERM is ours, since job schedulers
send it.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Requests(NamedTuple):
    """What signals have asked for since the last look."""

    snapshot: bool
    stop: bool


@contextlib.contextmanager
def watch_signals() -> Iterator[Callable[[], Requests]]:
    """Yields poll() -> Requests, which also forgets what it returns.

    A second SIGINT or SIGTERM before the first was polled acts as it would without
    us, so a hanging program can still be stopped. Outside the main thread, where
    Python allows no handlers, nothing is watched.
    """
    seen: set[int] = set()
    previous = {}

    def note(number: int, frame: object) -> None:
        if number in seen and number != signal.SIGHUP:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        seen.add(number)

    def poll() -> Requests:
        if not seen:
            return Requests(False, False)
        asked = Requests(
            snapshot=signal.SIGHUP in seen,
            stop=bool({signal.SIGINT, signal.SIGTERM} & seen),
        )
        seen.clear()
        return asked

    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            previous[number] = signal.signal(number, note)
    except ValueError:
        pass
    try:
        yield poll
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
