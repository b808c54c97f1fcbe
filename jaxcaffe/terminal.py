"""A line at the foot of the terminal that says where a run stands.

Caffe has none. The log goes by above it; away from a terminal nothing is drawn.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jaxcaffe import log
from jaxcaffe.run_view import RunView

if TYPE_CHECKING:
    from rich.console import RenderableType

_PER_SECOND = 4  # times that the line is drawn anew
_BAR_WIDTH = 20  # columns
_WITH_BAR = 110  # columns that a terminal with a bar has at least


@contextmanager
def show_run(view: RunView) -> Iterator[None]:
    """Draws the line while the body runs, if stderr is a terminal.

    A thread reads the view a few times a second; the run waits for nothing.

    Args:
      view: of a run; the loop keeps it up to date.
    """
    if not sys.stderr.isatty():
        yield
        return
    # Imported here: rich is slow to load, and logs do not need it.
    from rich.console import Console
    from rich.live import Live

    console = Console(file=sys.stderr)
    with (
        Live(
            console=console,
            get_renderable=lambda: _render(view, console.width),
            refresh_per_second=_PER_SECOND,
            transient=True,
        ),
        log.through(
            lambda text: console.print(
                text, end="", markup=False, highlight=False, soft_wrap=True
            )
        ),
    ):
        yield


def describe_run(view: RunView) -> str:
    """Returns the line's text, such as `Iteration 20/400  loss 1.23  910 images/s`.

    Args:
      view: of a run; what it does not know yet is left out.
    """
    parts = [f"Iteration {view.iteration}/{view.max_iter}"]
    if view.loss is not None:
        parts.append(f"loss {view.loss:.4g}")
    if view.accuracy is not None:
        parts.append(f"accuracy {view.accuracy:.4g}")
    if view.testing is not None:
        parts.append(f"testing net #{view.testing}")
    if view.speed and view.images:
        parts.append(f"{_round(view.speed * view.images)} images/s")
    elif view.speed:
        parts.append(f"{_round(view.speed)} iterations/s")
    left = view.seconds_left()
    if left is not None:
        parts.append(f"{_duration(left)} left")
    return "  ".join(parts)


def _render(view: RunView, width: int) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    text = Text(describe_run(view), no_wrap=True, overflow="ellipsis")
    if width < _WITH_BAR:
        return text
    table = Table.grid(padding=(0, 1))
    table.add_row(
        ProgressBar(view.max_iter or 1, view.iteration, width=_BAR_WIDTH), text
    )
    return table


def _round(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{days} d {clock}" if days else clock
