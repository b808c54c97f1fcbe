"""Draws the curves of runs into one picture: `plot RUN [RUN ...]`.

Follows tools/extra/plot_training_log.py.example of Caffe.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

import numpy as np

from jaxcaffe.curves.curve import Curve, collect
from jaxcaffe.curves.figure import Panel, draw_panels
from jaxcaffe.curves.rows import LOG, Row, read_rows
from jaxcaffe.errors import ConfigError, DataError, describe, nearest
from jaxcaffe.tools import cli

DESCRIPTION = """\
Draws the curves of runs into one picture: training loss on the left, test accuracy on
the right. RUN is the workdir of a run, or a training log, ours or Caffe's own.

  plot runs/digits runs/digits_adam
  plot caffe.log 'rate 0.05=runs/a1,runs/a2' 'rate 0.005=runs/b1,runs/b2' --out=rate.png

Runs of one label, separated by commas, differ in their seeds: the line is their mean,
the band reaches from the lowest to the highest. A curve ends where the first of its
runs does; a cross marks an end that not all of them share, as when one run's loss was
no finite number any more. Prints each label's last value on the right."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: the arguments without the program's name; None takes the process's.

    Returns:
      0.

    Raises:
      CaffeError: wrong flags, no such run, the picture exists or cannot be written.
    """
    parser = cli.Parser("plot", DESCRIPTION)
    parser.argument("RUN", "[LABEL=]RUN[,RUN...]: workdirs or logs", nargs="+")
    parser.flag("out", "curves.png", "the picture to write, a PNG file")
    parser.flag("overwrite", False, "replace the picture")
    parser.flag("title", "", "a line above the panels")
    parser.flag("accuracy_from", 0.0, "lower end of the accuracy axis, %")
    parser.flag(
        "test_output",
        "",
        "what to draw on the right, as test0/loss; by default the accuracy, or the "
        "first output of the first test net",
    )
    flags = parser.parse(argv)
    if not flags.out.endswith(".png"):
        raise ConfigError(describe("--out", f"{flags.out} is no .png file", "a.png"))
    arms = split_arms(flags.RUN)
    rows = {label: [read_rows(run) for run in runs] for label, runs in arms.items()}
    output = find_output(rows, flags.test_output)
    losses = {label: collect(runs, "loss") for label, runs in rows.items()}
    panels = [Panel("Iteration", "Training loss", losses, may_be_log=True)]
    tests: dict[str, Curve] = {}
    if output:
        tests = {label: collect(runs, output) for label, runs in rows.items()}
        panels.append(_test_panel(tests, output, flags.accuracy_from))
    if not any(curve.x.size for panel in panels for curve in panel.curves.values()):
        where = ", ".join(run for runs in arms.values() for run in runs)
        raise DataError(describe(where, "nothing was displayed or tested yet"))
    cli.refuse_existing(flags.out, flags.overwrite)
    cli.write_file(flags.out, draw_panels(panels, flags.title), flags.overwrite)
    for label, curve in (tests or losses).items():
        print(f"{label}: {describe_end(curve, is_accuracy(output))}")
    return 0


def split_arms(texts: Sequence[str]) -> dict[str, list[str]]:
    """Returns label -> runs of `[LABEL=]RUN[,RUN...]` arguments.

    Without a label a run goes by the last part of its path, or by the whole path where
    another has the same last part.

    Raises:
      ConfigError: a label or a run is missing, or a label comes twice.
    """
    names = Counter(_name(text) for text in texts)
    arms: dict[str, list[str]] = {}
    for text in texts:
        label, equals, runs = text.rpartition("=")
        if not equals or os.path.exists(text):
            label = _name(text) if names[_name(text)] == 1 else text
            runs = text
        paths = [runs] if os.path.exists(runs) else runs.split(",")
        if not (label and all(paths)):
            raise ConfigError(describe("plot", f'"{text}"', "[LABEL=]RUN[,RUN...]"))
        if label in arms:
            problem = f'the label "{label}" comes twice'
            raise ConfigError(describe("plot", problem, "LABEL=RUN1,RUN2"))
        arms[label] = paths
    return arms


def find_output(rows: dict[str, list[list[Row]]], wanted: str) -> str:
    """Returns the test output to draw: `wanted` or, if that is "", a fitting one.

    Raises:
      ConfigError: no run has such an output.
    """
    names = dict.fromkeys(
        name
        for runs in rows.values()
        for run in runs
        for row in run
        for name in row
        if name.startswith("test")
    )
    if wanted and wanted not in names:
        raise ConfigError(
            describe("--test_output", f'no run has "{wanted}"', nearest(wanted, names))
        )
    return wanted or next((n for n in names if is_accuracy(n)), next(iter(names), ""))


def is_accuracy(output: str) -> bool:
    """Returns whether the name of an output tells that it is a share of records."""
    return "acc" in output.lower()


def describe_end(curve: Curve, is_share: bool) -> str:
    """Returns the last value as `mean (lowest to highest, runs) at iteration N`.

    Args:
      curve: of one label.
      is_share: whether its values are shares, to be told in percent.
    """
    if not curve.x.size:
        return "no finite value in all runs"
    unit, digits = (" %", ".2f") if is_share else ("", ".6g")
    last = curve.values[:, -1] * (100 if is_share else 1)
    spread = f"{last.min():{digits}} to {last.max():{digits}}, {len(last)} runs"
    return (
        f"{last.mean():{digits}}{unit} ({spread if len(last) > 1 else '1 run'}) "
        f"at iteration {curve.x[-1]}"
        + (", where the first run ended" if curve.broke else "")
    )


def _test_panel(tests: dict[str, Curve], output: str, accuracy_from: float) -> Panel:
    if not is_accuracy(output):
        net, _, blob = output.partition("/")
        title = f"Test {blob}" if net == "test0" else f"Test net {net[4:]}: {blob}"
        return Panel("Iteration", title, tests, may_be_log=True)
    percent = {
        k: c._replace(values=np.multiply(c.values, 100)) for k, c in tests.items()
    }
    return Panel(
        "Iteration", "Test accuracy (%)", percent, bottom=accuracy_from, ceiling=100.0
    )


def _name(text: str) -> str:
    folder, name = os.path.split(os.path.normpath(text))
    # Every run of ours calls its log so.
    return os.path.basename(folder if name == LOG and folder else name).removesuffix(
        ".log"
    )


if __name__ == "__main__":
    cli.run(main)
