"""Progress of a long count: a bar on a terminal, plain lines anywhere else.

The lines follow tools/convert_imageset.cpp and tools/compute_image_mean.cpp of Caffe.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def show_progress(
    what: str,
    total: int | None,
    *,
    unit: str = "files",
    every: int = 1000,
    stream: TextIO | None = None,
) -> Iterator[Callable[[int], None]]:
    """Gives a function to be called with the number of units just done.

    On a terminal it moves a bar with the speed and the time left. Elsewhere it writes
    Caffe's line, `Processed 1000 files.`, each time the count passes a multiple of
    `every`. In both cases leaving without an error writes the line with the full count,
    unless it is there already.

    Args:
      what: a short title of the bar.
      total: units in all, None if unknown.
      unit: the word for what is counted, in the plural.
      every: units between two lines.
      stream: where to write; stderr by default.
    """
    out = stream or sys.stderr
    done = 0
    written = 0

    def write_line() -> None:
        nonlocal written
        print(f"Processed {done} {unit}.", file=out, flush=True)
        written = done

    if not out.isatty():

        def advance(count: int = 1) -> None:
            nonlocal done
            before, done = done, done + count
            if done // every > before // every:
                write_line()

        yield advance
    else:
        # Imported here: rich is slow to load, and logs do not need it.
        from rich import progress as rich_progress
        from rich.console import Console

        bar = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TextColumn(unit),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TimeRemainingColumn(),
            console=Console(file=out),
            transient=True,
        )
        with bar:
            task = bar.add_task(what, total=total)

            def advance(count: int = 1) -> None:
                nonlocal done
                done += count
                bar.advance(task, count)

            yield advance
    if written != done or not done:
        write_line()
