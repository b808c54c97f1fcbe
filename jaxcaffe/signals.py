"""Signals ask for a snapshot, or for a snapshot and the end.

Follows caffe/src/caffe/util/signal_handler.cpp; SIGTERM is ours, since job schedulers
send it.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import NamedTuple

EFFECTS = ("snapshot", "stop", "none")
"""What a signal may be told to do."""


class Requests(NamedTuple):
    """What signals have asked for since the last look."""

    snapshot: bool
    stop: bool


@contextlib.contextmanager
def watch_signals(
    sigint: str = "stop", sighup: str = "snapshot"
) -> Iterator[Callable[[], Requests]]:
    """Yields poll() -> Requests, which also forgets what it returns.

    SIGTERM always stops. Where SIGINT or SIGTERM stops, a second one before the first
    was polled acts as it would without us, so a hanging program can still be stopped.
    Outside the main thread, where Python allows no handlers, nothing is watched.

    Args:
      sigint: one of EFFECTS, of Ctrl-C.
      sighup: likewise, of a terminal that hangs up.
    """
    effects = {signal.SIGINT: sigint, signal.SIGTERM: "stop", signal.SIGHUP: sighup}
    seen: set[int] = set()
    previous = {}

    def note(number: int, frame: object) -> None:
        effect = effects[signal.Signals(number)]
        if effect == "none":
            return
        if effect == "stop" and number in seen and number != signal.SIGHUP:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        seen.add(number)

    def poll() -> Requests:
        if not seen:
            return Requests(False, False)
        asked = {effects[signal.Signals(number)] for number in seen}
        seen.clear()
        return Requests(snapshot="snapshot" in asked, stop="stop" in asked)

    try:
        for number in effects:
            previous[number] = signal.signal(number, note)
    except ValueError:
        pass
    try:
        yield poll
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
