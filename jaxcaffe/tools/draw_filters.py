"""Draws the filters of a convolution: `draw_filters WEIGHTS OUT.png`.

Follows vis_square of caffe/examples/00-classification.ipynb.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from jaxcaffe import checkpoint
from jaxcaffe.caffe_files.weights import read_weights
from jaxcaffe.errors import ConfigError, describe, nearest, plural
from jaxcaffe.filter_grid import tile_filters
from jaxcaffe.tools import cli

DESCRIPTION = """\
Draws the filters of a net's first convolution, or of another, as one PNG file. Gray
levels are linear in the weights, from the lowest of all filters to the highest.

  draw_filters runs/cifar10_quick/snapshots/4000 filters.png
  draw_filters caffenet.caffemodel filters.png --layer=conv1

WEIGHTS is a .caffemodel, a .caffemodel.h5, or the folder of one snapshot of a run."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: the arguments without the program's name; None takes the process's.

    Returns:
      0.

    Raises:
      CaffeError: wrong flags, weights that are missing or broken, no such layer, OUT
        exists or cannot be written.
    """
    parser = cli.Parser("draw_filters", DESCRIPTION)
    parser.argument("WEIGHTS", "trained weights")
    parser.argument("OUT", "the picture to make, as filters.png")
    parser.flag("layer", "", "by default the first with filters of colours or grays")
    parser.flag(
        "channels",
        "bgr",
        "order of three channels: bgr, as convert_imageset stores them, or rgb",
        choices=("bgr", "rgb"),
    )
    parser.flag("scale", 8, "side of the square that shows one weight, pixels")
    parser.flag("overwrite", False, "replace OUT if it exists")
    flags = parser.parse(argv)
    if flags.scale < 1:
        raise ConfigError(describe("--scale", f"is {flags.scale}", "1 or more pixels"))
    if not flags.OUT.endswith(".png"):
        raise ConfigError(describe(flags.OUT, "does not end in .png", "as filters.png"))
    filters = read_filters(flags.WEIGHTS)
    layer = pick_layer(filters, flags.layer, flags.WEIGHTS)
    cli.refuse_existing(flags.OUT, flags.overwrite)
    weight = filters[layer]
    grid = tile_filters(weight, is_bgr=flags.channels == "bgr")
    picture = Image.fromarray(grid.repeat(flags.scale, 0).repeat(flags.scale, 1))
    out = io.BytesIO()
    picture.save(out, "png", optimize=True)
    cli.write_file(flags.OUT, out.getvalue(), flags.overwrite)
    count, channels, height, width = weight.shape
    print(
        f"{layer}: {plural(count, 'filter')} of {plural(channels, 'channel')}, "
        f"{height} x {width}, weights "
        f"from {weight.min():.4g} to {weight.max():.4g}"
    )
    return 0


def read_filters(path: str) -> dict[str, np.ndarray]:
    """Returns layer -> (K, C, H, W) float32, of every layer with such weights.

    Args:
      path: a weight file, or the folder of a snapshot.

    Raises:
      SnapshotError: it is missing or broken.
    """
    if os.path.isdir(path):
        layers = checkpoint.read_weights(path)["params"]
        firsts = {name: blobs.get("weight") for name, blobs in layers.items()}
    else:
        firsts = {name: b[0] if b else None for name, b in read_weights(path).items()}
    arrays = {k: np.asarray(array) for k, array in firsts.items() if array is not None}
    # A matrix of old has two axes of 1 in front.
    return {
        name: array
        for name, array in arrays.items()
        if array.ndim == 4 and array.shape[0] > 1 and array.size
    }


def pick_layer(filters: Mapping[str, np.ndarray], wanted: str, path: str) -> str:
    """Returns the layer to draw: `wanted` or, if that is "", a fitting one.

    Raises:
      ConfigError: there is none.
    """
    if not filters:
        raise ConfigError(describe(path, "holds no convolution's weights"))
    if wanted and wanted not in filters:
        problem = f'no convolution is named "{wanted}"'
        raise ConfigError(describe(path, problem, nearest(wanted, filters)))
    shown = [name for name, array in filters.items() if array.shape[1] in (1, 3)]
    return wanted or (shown or list(filters))[0]


if __name__ == "__main__":
    cli.run(main)
