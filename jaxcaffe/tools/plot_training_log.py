"""Draws one chart of training logs: `plot_training_log TYPE OUT.png LOG [LOG ...]`.

Follows tools/extra/plot_training_log.py.example of Caffe.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from jaxcaffe.curves.caffe_log import Event, read_log
from jaxcaffe.curves.curve import Curve
from jaxcaffe.curves.figure import Panel, draw_panels
from jaxcaffe.curves.rows import find_log
from jaxcaffe.errors import ConfigError, DataError, describe
from jaxcaffe.tools import cli
from jaxcaffe.tools.plot import split_arms

CHARTS = tuple(
    (quantity, axis)
    for quantity in ("Test accuracy", "Test loss", "Train learning rate", "Train loss")
    for axis in ("Iters", "Seconds")
)
"""Chart type -> what is drawn, and over what."""

_LIST = "\n".join(f"  {i}: {y} vs. {x}" for i, (y, x) in enumerate(CHARTS))
DESCRIPTION = f"""\
Draws one chart of one or several training logs, ours or Caffe's, into a PNG file. LOG
may also be the workdir of a run. Chart types:

{_LIST}

  plot_training_log 6 loss.png runs/digits/train.log caffe.log"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: the arguments without the program's name; None takes the process's.

    Returns:
      0.

    Raises:
      CaffeError: wrong flags, no such log or nothing to draw in it, OUT exists or
        cannot be written.

    Source: caffe/tools/extra/plot_training_log.py.example. Differs: accuracy and loss
    are found by their names among the outputs of the first test net, and only else are
    its first and second output; colours are fixed; a log's name may end in anything;
    no window opens.
    """
    parser = cli.Parser("plot_training_log", DESCRIPTION)
    parser.argument("TYPE", "number of the chart, 0 to 7")
    parser.argument("OUT", "the picture to write, as loss.png")
    parser.argument("LOG", "logs of trainings, or workdirs", nargs="+")
    parser.flag("overwrite", False, "replace OUT if it exists")
    flags = parser.parse(argv)
    if flags.TYPE not in map(str, range(len(CHARTS))):
        known = "; ".join(f"{i} ({y} vs. {x})" for i, (y, x) in enumerate(CHARTS))
        raise ConfigError(describe("plot_training_log", f"TYPE is {flags.TYPE}", known))
    if not flags.OUT.endswith(".png"):
        raise ConfigError(describe(flags.OUT, "does not end in .png", "as loss.png"))
    quantity, axis = CHARTS[int(flags.TYPE)]
    curves = {}
    for label, paths in split_arms(flags.LOG).items():
        path = find_log(",".join(paths))
        curves[label] = pick_curve(read_log(path), quantity, axis == "Seconds")
        if not curves[label].x.size:
            raise DataError(describe(path, f"holds no {quantity.lower()}"))
    cli.refuse_existing(flags.OUT, flags.overwrite)
    panel = Panel(axis, quantity, curves)
    content = draw_panels([panel], f"{quantity} vs. {axis}")
    cli.write_file(flags.OUT, content, flags.overwrite)
    print(f"Wrote {os.path.abspath(flags.OUT)}")
    return 0


def pick_curve(events: Sequence[Event], quantity: str, over_seconds: bool) -> Curve:
    """Returns one quantity of a log; empty if the log lacks it.

    Args:
      events: of read_log.
      quantity: the first half of one of CHARTS.
      over_seconds: against seconds since the start, else against iterations.
    """
    name = {"Train loss": "loss", "Train learning rate": "lr"}.get(quantity)
    if name is None:
        names = list(
            dict.fromkeys(e.name for e in events if e.name.startswith("test0/"))
        )
        word, place = ("loss", 1) if quantity == "Test loss" else ("acc", 0)
        named = [n for n in names if word in n.lower()]
        name = (named or names[place : place + 1] or [""])[0]
    found = [event for event in events if event.name == name]
    x = [event.seconds if over_seconds else event.iteration for event in found]
    return Curve(np.array(x, float), np.array([[event.value for event in found]]))


if __name__ == "__main__":
    cli.run(main)
