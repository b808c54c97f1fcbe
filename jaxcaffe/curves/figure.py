"""Curves as a small PNG file, one panel for each quantity.

Follows plot_chart of tools/extra/plot_training_log.py.example of Caffe.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from jaxcaffe.curves.curve import Curve

# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":", "-.")
"""Each colour comes once with each."""

LOG_SPAN = 50
"""Values whose largest is so many times the smallest get a logarithmic axis."""

FEW = 15
"""Points of a curve that are marked, if there are no more."""

_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}


class Panel(NamedTuple):
    """One quantity of every label."""

    xlabel: str
    ylabel: str
    curves: Mapping[str, Curve]
    may_be_log: bool = False  # the axis is logarithmic if LOG_SPAN says so
    bottom: float | None = None  # lower end of the axis
    ceiling: float | None = None  # that the axis' upper end does not pass


def draw_panels(panels: Sequence[Panel], title: str = "") -> bytes:
    """Returns a PNG file with panels beside one another under one legend.

    A label has one colour in all panels. Of several runs of a label the line is the
    mean, and a band reaches from the lowest to the highest; a cross marks an end that
    not all of them share.

    Args:
      panels: one or more, with the same labels.
      title: a line above the legend; "" for none.
    """
    labels = list(dict.fromkeys(label for panel in panels for label in panel.curves))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(
            figsize=(4.5 * max(len(panels), 1.4), 3.7),
            layout=ConstrainedLayoutEngine(wspace=0.05),
        )
        FigureCanvasAgg(figure)
        row = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, panel in zip(row, panels, strict=True):
            _draw_panel(axes, panel, labels)
        lines = {
            line.get_label(): line
            for axes in row
            for line in axes.get_lines()
            if line.get_label() in labels
        }
        shown = [label for label in labels if label in lines]
        figure.legend(
            [lines[label] for label in shown],
            shown,
            loc="outside upper center",
            # Two rows from five labels on, so that labels in pairs stand in pairs.
            ncols=max(1, len(shown) if len(shown) < 5 else math.ceil(len(shown) / 2)),
            frameon=False,
            title=title or None,
            title_fontproperties={"weight": "bold", "size": 10},
        )
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120)
    return _shrink(buffer)


def _draw_panel(axes: Axes, panel: Panel, labels: Sequence[str]) -> None:
    for label, curve in panel.curves.items():
        _draw_curve(axes, curve, label, labels.index(label))
    values = np.concatenate([c.values.ravel() for c in panel.curves.values()])
    if (
        panel.may_be_log
        and values.size
        and values.max() > LOG_SPAN * max(values.min(), 0)
        and values.max() > 0
    ):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_xlabel(panel.xlabel)
    axes.set_ylabel(panel.ylabel)
    axes.margins(x=0.02)
    if panel.bottom is not None:
        axes.set_ylim(bottom=panel.bottom)
    if panel.ceiling is not None:
        axes.set_ylim(top=min(panel.ceiling, axes.get_ylim()[1]))
    axes.grid(color="0.9", linewidth=0.8)
    axes.tick_params(color="0.6")


def _draw_curve(axes: Axes, curve: Curve, label: str, number: int) -> None:
    if not curve.x.size:
        return
    colour = COLOURS[number % len(COLOURS)]
    mean = curve.values.mean(axis=0)
    axes.plot(
        curve.x,
        mean,
        color=colour,
        linestyle=DASHES[number // len(COLOURS) % len(DASHES)],
        linewidth=1.6,
        # Few points: show where they are.
        marker="o" if curve.x.size <= FEW else "",
        markersize=3.5,
        label=label,
    )
    if len(curve.values) > 1:
        lowest, highest = curve.values.min(axis=0), curve.values.max(axis=0)
        axes.fill_between(
            curve.x, lowest, highest, color=colour, alpha=0.2, linewidth=0
        )
    if curve.broke:
        axes.plot(curve.x[-1], mean[-1], "X", color=colour, markersize=7, zorder=3)


def _shrink(png: io.BytesIO) -> bytes:
    """A palette draws the same lines in a third of the bytes."""
    small = io.BytesIO()
    picture = Image.open(png).convert("RGB")
    palette = picture.quantize(256, kmeans=8, dither=Image.Dither.NONE)
    palette.save(small, "png", optimize=True)
    return small.getvalue()
