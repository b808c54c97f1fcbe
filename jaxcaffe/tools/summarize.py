"""Prints a net as a table, a line for each layer: `summarize NET`.

Follows tools/extra/summarize.py of Caffe.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from jaxcaffe.errors import ConfigError, describe
from jaxcaffe.proto import caffe_pb2, upgrade
from jaxcaffe.proto.text import read_net
from jaxcaffe.tools import cli

DESCRIPTION = """\
Prints one line for each layer of a net's prototxt: name, type, (names and multipliers
of its parameters), bottoms -> tops, and for convolutions and pooling
KERNEL/STRIDE+PAD OUTPUTS/GROUPS.

  summarize prototxt/lenet/train_val.prototxt

x2.0 is an lr_mult, Dx0.0 a decay_mult, W * a loss_weight of W. On a terminal each blob
has a colour; underlined ones are read by no later layer, and on red ground stand those
that no earlier layer makes."""

COLOURS = ("92", "93", "94", "95", "97", "96", "42", "43;30", "100", "103;30", "107;30")
"""ANSI codes, a blob's by its number."""

UNKNOWN = "41"
_CODE = re.compile(r"\033\[[\d;]+m")

Row = list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: the arguments without the program's name; None takes the process's.

    Returns:
      0.

    Raises:
      CaffeError: wrong flags, a net that is missing or malformed.

    Source: caffe/tools/extra/summarize.py. Differs: nets in an older form are upgraded;
    rectangular kernels, strides and pads are shown; colours only on a terminal.
    """
    parser = cli.Parser("summarize", DESCRIPTION)
    parser.argument("NET", "the net's prototxt")
    parser.flag("max_width", 30, "widest that a column is made, in characters")
    parser.flag(
        "color",
        "auto",
        "auto: on a terminal, unless NO_COLOR is set",
        choices=("auto", "always", "never"),
    )
    given = sys.argv[1:] if argv is None else argv
    # The only one-letter flag of Caffe's tools.
    flags = parser.parse(["--max_width" if word == "-w" else word for word in given])
    if flags.max_width < 1:
        raise ConfigError(describe("--max_width", f"is {flags.max_width}", "1 or more"))
    net, source = read_net(flags.NET)
    auto = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    coloured = flags.color == "always" or (flags.color == "auto" and auto)
    if net.layers:
        net = upgrade.upgrade_net(net, source)
    rows = summarize_net(net)
    for line in lay_out(rows, flags.max_width):
        print(line if coloured else _CODE.sub("", line))
    return 0


def summarize_net(net: caffe_pb2.NetParameter) -> list[Row]:
    """Returns name, type, parameters, bottoms, "->", tops and sizes of each layer.

    Args:
      net: with `layer`, not the older `layers`; all are shown, whatever their phase.

    Source: caffe/tools/extra/summarize.py, summarize_net. Differs: see main.
    """
    unread: set[str] = set()
    for layer in net.layer:
        unread = (unread | set(layer.top)) - set(layer.bottom)
    colours: dict[str, str] = {}
    rows = []
    for layer in net.layer:
        # Before its own tops: an input has its colour from the layer that made it.
        bottoms = [_paint(b, colours.get(b, UNKNOWN)) for b in layer.bottom]
        tops = []
        for index, top in enumerate(layer.top):
            code = colours.setdefault(top, COLOURS[len(colours) % len(COLOURS)])
            text = f"\033[1;4m{top}" if top in unread else top
            if index < len(layer.loss_weight):
                text = f"{layer.loss_weight[index]} * {text}"
            tops.append(_paint(text, code))
        rows.append(
            [
                layer.name,
                _type(layer),
                _params(layer),
                ", ".join(bottoms),
                "->",
                ", ".join(tops),
                _sizes(layer),
            ]
        )
    return rows


def lay_out(rows: Sequence[Row], max_width: int) -> list[str]:
    """Returns the lines of a table, columns as narrow as their texts.

    Args:
      rows: of one length; ANSI codes take no room.
      max_width: of a column; a longer text pushes aside what follows it.

    Source: caffe/tools/extra/summarize.py, print_table. Differs: no spaces at the end.
    """
    widths = [
        min(max(_printed(row[k]) + 1 for row in rows), max_width)
        for k in range(len(rows[0]) if rows else 0)
    ]
    lines = []
    for row in rows:
        line, right = "", 0
        for cell, width in zip(row, widths, strict=True):
            right += width
            line += f"{cell} "
            line += " " * (right - _printed(line))
        lines.append(line.rstrip())
    return lines


def _printed(text: str) -> int:
    return len(_CODE.sub("", text))


def _paint(text: str, code: str) -> str:
    return f"\033[{code}m{text}\033[0m"


def _type(layer: caffe_pb2.LayerParameter) -> str:
    if layer.type == "Python":
        return f"{layer.python_param.module}.{layer.python_param.layer}"
    return layer.type


def _params(layer: caffe_pb2.LayerParameter) -> str:
    texts = [_param(param) for param in layer.param]
    return f"({', '.join(texts)})" if any(texts) else ""


def _param(param: caffe_pb2.ParamSpec) -> str:
    parts = [param.name] if param.name else []
    if param.lr_mult != 1:
        parts.append(f"x{param.lr_mult}")
    if param.decay_mult != 1:
        parts.append(f"Dx{param.decay_mult}")
    return " ".join(parts)


def _sizes(layer: caffe_pb2.LayerParameter) -> str:
    if layer.type in ("Convolution", "Deconvolution"):
        conv = layer.convolution_param
        groups = f"/{conv.group}" if conv.group != 1 else ""
        return f"{_window(conv)} {conv.num_output}{groups}"
    if layer.type == "Pooling":
        pooling = layer.pooling_param
        return "global" if pooling.global_pooling else _window(pooling)
    return ""


def _window(param: Any) -> str:
    text = _size(param, "kernel_size", "kernel", "")
    stride = _size(param, "stride", "stride", "1")
    pad = _size(param, "pad", "pad", "0")
    text += f"/{stride}" if stride != "1" else ""
    return text + (f"+{pad}" if pad != "0" else "")


def _size(param: Any, field: str, stem: str, default: str) -> str:
    """Returns "3", or "3x5" where rows and columns differ."""
    if param.HasField(f"{stem}_h") or param.HasField(f"{stem}_w"):
        sizes = [getattr(param, f"{stem}_h"), getattr(param, f"{stem}_w")]
    else:
        value = getattr(param, field)
        sizes = [value] if isinstance(value, int) else list(value) or [default]
    return "x".join(map(str, sizes if len(set(sizes)) > 1 else sizes[:1]))


if __name__ == "__main__":
    cli.run(main)
