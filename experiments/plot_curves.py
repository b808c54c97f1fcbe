r"""Draws the curves of runs: training loss on the left, test accuracy on the right.

  python experiments/plot_curves.py OUT.png LABEL=RUN_DIR[,RUN_DIR...] ...

One colour a label. Its runs differ in their seeds: the line is their mean, the band
reaches from the lowest to the highest. A curve ends where the first of its runs does;
a cross marks an end that not all of them share, as when one run's loss was no finite
number any more. Prints each label's last test accuracy.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from jaxcaffe.errors import ConfigError, describe
from jaxcaffe.log import read_scalars
from jaxcaffe.tools import cli

DESCRIPTION = """\
Draws the curves of runs: training loss on the left, test accuracy on the right.

  python experiments/plot_curves.py curves.png 'rate 0.05=runs/a1,runs/a2' \\
    'rate 0.005=runs/b1,runs/b2'

RUN_DIR is a run's workdir, which holds scalars.jsonl. Runs of one label differ in
their seeds: the line is their mean, the band reaches from the lowest to the highest."""

# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LOG_SPAN = 50
"""Losses whose largest is so many times the smallest get a logarithmic axis."""

FEW = 15
"""Points of a curve that are marked, if there are no more."""


class Curve(NamedTuple):
    """One quantity of one label's runs, at the iterations that all of them reached."""

    iterations: np.ndarray  # (K,) int
    values: np.ndarray  # (runs, K) float
    broke: bool  # a run ended there, and others went on or it was not finite


def main(argv: Sequence[str]) -> int:
    """Runs the command line; see --help. Returns the exit status.

    Raises:
      ConfigError: wrong arguments, no such run, or the file cannot be written.
    """
    parser = cli.Parser("plot_curves", DESCRIPTION)
    parser.argument("OUT.png", "the picture to write")
    parser.argument("LABEL=RUN_DIR[,RUN_DIR...]", "runs that differ in seed", nargs="+")
    parser.flag("overwrite", False, "replace the picture")
    parser.flag("title", "", "a line above the panels")
    parser.flag("accuracy_from", 0.0, "lower end of the accuracy axis, %")
    parser.flag("test_output", "test0/accuracy", "which test output to draw")
    flags = parser.parse(argv)
    arms = dict(split_arm(text) for text in vars(flags)["LABEL=RUN_DIR[,RUN_DIR...]"])
    rows = {label: [read_run(run) for run in runs] for label, runs in arms.items()}
    losses = {label: collect(runs, "loss") for label, runs in rows.items()}
    accuracies = {
        label: collect(runs, flags.test_output) for label, runs in rows.items()
    }
    picture = draw(losses, accuracies, flags.title, flags.accuracy_from)
    cli.write_file(vars(flags)["OUT.png"], picture, flags.overwrite)
    for label, curve in accuracies.items():
        print(f"{label}: {describe_end(curve)}")
    return 0


def split_arm(text: str) -> tuple[str, list[str]]:
    """Returns the label and the run folders of `LABEL=RUN_DIR[,RUN_DIR...]`."""
    label, equals, runs = text.rpartition("=")
    if not (label and equals and runs):
        raise ConfigError(
            describe("plot_curves", f'"{text}"', "LABEL=RUN_DIR[,RUN_DIR...]")
        )
    return label, runs.split(",")


def read_run(run: str) -> list[dict[str, float]]:
    """Returns a run's rows of scalars, as jaxcaffe.log.read_scalars."""
    path = os.path.join(run, "scalars.jsonl")
    try:
        return read_scalars(path)
    except OSError as error:
        raise ConfigError(
            describe(path, f"cannot be read: {error.strerror}", "the workdir of a run")
        ) from None


def collect(runs: Sequence[list[dict[str, float]]], name: str) -> Curve:
    """Returns one quantity of several runs where all of them have a finite value.

    Args:
      runs: the rows of each.
      name: a field of the rows, such as "loss".
    """
    # A net that broke still gets a test accuracy, beside a loss of NaN.
    kept = [[r for r in rows if all(map(math.isfinite, r.values()))] for rows in runs]
    series = [{row["iter"]: row[name] for row in rows if name in row} for rows in kept]
    shared = sorted(set.intersection(*(set(one) for one in series)))
    last = shared[-1] if shared else -1
    return Curve(
        iterations=np.array(shared, int),
        values=np.array([[one[i] for i in shared] for one in series], float),
        broke=any(max(one, default=-1) > last for one in series)
        or any(len(some) < len(rows) for some, rows in zip(kept, runs, strict=True)),
    )


def draw(
    losses: dict[str, Curve],
    accuracies: dict[str, Curve],
    title: str,
    accuracy_from: float,
) -> bytes:
    """Returns the picture as a PNG file.

    Args:
      losses: label -> training loss, nats.
      accuracies: label -> test accuracy, 0 to 1.
      title: a line above the panels; "" for none.
      accuracy_from: lower end of the accuracy axis, %.
    """
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False})
    plt.rcParams.update({"axes.spines.right": False, "axes.axisbelow": True})
    figure = plt.figure(figsize=(9, 3.7), layout=ConstrainedLayoutEngine(wspace=0.05))
    left, right = figure.subplots(1, 2)
    for label, colour in zip(losses, COLOURS, strict=False):
        _draw_curve(left, losses[label], colour, label)
        accuracy = accuracies[label]
        _draw_curve(right, accuracy._replace(values=100 * accuracy.values), colour)
    left.set_ylabel("Training loss (nats per image)")
    right.set_ylabel("Test accuracy (%)")
    values = np.concatenate([curve.values.ravel() for curve in losses.values()])
    if values.size and values.max() > LOG_SPAN * max(values.min(), 0):
        left.set_yscale("log")
        left.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        left.yaxis.set_minor_formatter(ticker.NullFormatter())
    right.set_ylim(bottom=accuracy_from, top=min(100.0, right.get_ylim()[1]))
    for axes in (left, right):
        axes.set_xlabel("Iteration")
        axes.margins(x=0.02)
        axes.grid(color="0.9", linewidth=0.8)
        axes.tick_params(color="0.6")
    # Two rows from five labels on, so that labels given in pairs stand in pairs.
    columns = len(losses) if len(losses) < 5 else math.ceil(len(losses) / 2)
    figure.legend(
        loc="outside upper center",
        ncols=columns,
        frameon=False,
        title=title or None,
        title_fontproperties={"weight": "bold", "size": 10},
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    plt.close(figure)
    # A palette draws the same lines in a third of the bytes.
    small = io.BytesIO()
    picture = Image.open(buffer).convert("RGB")
    palette = picture.quantize(256, kmeans=8, dither=Image.Dither.NONE)
    palette.save(small, "png", optimize=True)
    return small.getvalue()


def _draw_curve(axes: Axes, curve: Curve, colour: str, label: str = "") -> None:
    if not curve.iterations.size:
        return
    mean = curve.values.mean(axis=0)
    # Few points: show where they are.
    marker = "o" if curve.iterations.size <= FEW else ""
    axes.plot(
        curve.iterations,
        mean,
        color=colour,
        linewidth=1.6,
        marker=marker,
        markersize=3.5,
        label=label,
    )
    if len(curve.values) > 1:
        lowest, highest = curve.values.min(axis=0), curve.values.max(axis=0)
        axes.fill_between(
            curve.iterations, lowest, highest, color=colour, alpha=0.2, linewidth=0
        )
    if curve.broke:
        axes.plot(
            curve.iterations[-1], mean[-1], "X", color=colour, markersize=7, zorder=3
        )


def describe_end(curve: Curve) -> str:
    """Returns the last accuracy as `mean % (lowest to highest, runs) at iteration`."""
    if not curve.iterations.size:
        return "no finite value in all runs"
    last = 100 * curve.values[:, -1]
    spread = f"{last.min():.2f} to {last.max():.2f}, {len(last)} runs"
    return (
        f"{last.mean():.2f} % ({spread if len(last) > 1 else '1 run'}) "
        f"at iteration {curve.iterations[-1]}"
        + (", where the first run ended" if curve.broke else "")
    )


if __name__ == "__main__":
    cli.run(main)
