"""Draws a net: `draw_net NET OUT.png`.

Follows python/draw_net.py of Caffe.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

from jaxcaffe.errors import CaffeError, ConfigError, describe, nearest
from jaxcaffe.proto import caffe_pb2, upgrade
from jaxcaffe.proto.text import read_net
from jaxcaffe.pycaffe import draw
from jaxcaffe.tools import cli
from jaxcaffe.tools.layers_flag import add_layers_flag, load_flagged_layers
from jaxcaffe.tools.shape_flag import add_shape_flag, read_shape

DESCRIPTION = """\
Draws the net of a prototxt: layers as boxes, blobs as octagons, with the shape of every
layer's tops, its learned values and the FLOPs of a forward pass of the whole batch. The
name of OUT tells the format: png, svg, pdf, or dot for Graphviz's own language. All but
the last need Graphviz's command dot.

  draw_net prototxt/googlenet/deploy.prototxt googlenet.png --rankdir=TB

Shapes come from the data that the net's data layers read, or from --shape. Where the
net cannot be run, as without either, the picture lacks shapes, values and FLOPs."""

FORMATS = ("png", "svg", "pdf", "jpg", "gif", "eps", "ps", "dot", "gv", "raw")
PHASES = ("TRAIN", "TEST", "ALL")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: the arguments without the program's name; None takes the process's.

    Returns:
      0.

    Raises:
      CaffeError: wrong flags, a net that is missing or wrong, OUT exists or cannot be
        written, Graphviz is missing.

    Source: caffe/python/draw_net.py. Differs: the picture shows shapes and costs; see
    pycaffe.draw.get_pydot_graph.
    """
    parser = cli.Parser("draw_net", DESCRIPTION)
    parser.argument("NET", "the net's prototxt")
    parser.argument("OUT", "the picture to make, as net.png")
    parser.flag(
        "rankdir",
        "LR",
        "where arrows point: LR right, TB down, RL left, BT up",
        choices=("LR", "TB", "RL", "BT"),
    )
    parser.flag("phase", "ALL", "which layers to draw", choices=PHASES)
    parser.flag("display_lrm", False, "show lr_mult of layers that learn by products")
    parser.flag("display_costs", True, "show shapes, learned values and FLOPs")
    add_shape_flag(parser, "in place of their data")
    parser.flag("overwrite", False, "replace OUT if it exists")
    add_layers_flag(parser)
    flags = parser.parse(argv)
    load_flagged_layers(flags)
    ext = os.path.splitext(flags.OUT)[1][1:].lower()
    if ext not in FORMATS:
        problem = f'has the extension "{ext}"' if ext else "has no extension"
        raise ConfigError(describe(flags.OUT, problem, nearest(ext, FORMATS)))
    shape = read_shape(flags)
    net, source = read_net(flags.NET)
    net = upgrade.upgrade_net(net, source)
    cli.refuse_existing(flags.OUT, flags.overwrite)
    phase = None if flags.phase == "ALL" else caffe_pb2.Phase.Value(flags.phase)
    print(f"Drawing net to {flags.OUT}", flush=True)

    paint = functools.partial(
        draw.draw_net, net, flags.rankdir, ext, phase, flags.display_lrm
    )
    try:
        picture = paint(display_costs=flags.display_costs, data_shape=shape)
    except ConfigError:
        raise
    except CaffeError as error:
        # Caffe's command draws what it cannot run, and nets whose data are elsewhere.
        picture = paint(display_costs=False)
        why = str(error).replace("data_shape=(C, H, W)", "--shape=C,H,W")
        cli.say(f"Drawn without shapes and costs, for which the net must run. {why}")
    cli.write_file(flags.OUT, picture, flags.overwrite)
    return 0


if __name__ == "__main__":
    cli.run(main)
