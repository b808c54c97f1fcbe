"""Stores what a net says about images: `classify INPUT OUT.npy --model_def=NET ...`.

Follows python/classify.py of Caffe.
"""

from __future__ import annotations

import io
import itertools
import os
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from jaxcaffe.classifier import Classifier
from jaxcaffe.cpu import tune_cpu
from jaxcaffe.errors import ConfigError, DataError, describe, plural
from jaxcaffe.image_io import load_image
from jaxcaffe.tools import cli, net_images
from jaxcaffe.tools.mode import find_device

DESCRIPTION = """\
The form of Caffe's classify.py: writes to OUT.npy an array with a row of scores for
each image, averaged over ten crops unless --center_only is given.

  classify cat.jpg scores.npy --model_def=deploy.prototxt \\
    --pretrained_model=caffenet.caffemodel --mean_file=ilsvrc_2012_mean.npy

INPUT is an image file, a folder, or a .npy array (N, H, W, C) of R, G, B from 0 to 1.
Without --model_def and --pretrained_model see classify --help for the other form."""

_GROUP = 16  # images in memory at a time


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: the arguments without the program's name; None takes the process's.

    Returns:
      0.

    Raises:
      CaffeError: wrong flags; a net, weights, mean or image that is missing, broken or
        does not fit the others; OUT exists or cannot be written.

    Source: caffe/python/classify.py. Differs: no default files; a folder's images come
    in the order of their names; a mean may also be a .binaryproto.
    """
    parser = cli.Parser("classify", DESCRIPTION)
    parser.argument("INPUT", "an image, a folder of images, or a .npy file")
    parser.argument("OUT", "the .npy file to make")
    net_images.add_net_flags(parser)
    parser.flag("center_only", False, "take the central crop alone")
    parser.flag("images_dim", "256,256", "rows,columns that images are resized to")
    parser.flag("ext", "jpg", "end of the names of a folder's images")
    parser.flag("overwrite", False, "replace OUT if it exists")
    flags = parser.parse(argv)
    net_images.check_net_flags(flags, "classify")
    # As numpy.save names its files.
    out = flags.OUT if flags.OUT.endswith(".npy") else f"{flags.OUT}.npy"
    dims = [part.strip() for part in flags.images_dim.split(",")]
    if len(dims) != 2 or not all(part.isdecimal() and int(part) for part in dims):
        problem = f'"{flags.images_dim}" is not rows,columns'
        raise ConfigError(describe("--images_dim", problem, "256,256"))
    device = find_device("classify", "GPU" if flags.gpu else None, None)
    with jax.default_device(device):
        tune_cpu()
        classifier = Classifier(
            flags.model_def,
            flags.pretrained_model,
            image_dims=[int(part) for part in dims],
            mean=net_images.read_mean(flags.mean_file),
            input_scale=flags.input_scale,
            raw_scale=flags.raw_scale,
            channel_swap=net_images.read_channel_swap(flags),
        )
        start = time.perf_counter()
        groups = read_groups(flags, color=classifier.channels == 3)
        first = next(groups)  # Whether it can be read matters more than OUT.
        cli.refuse_existing(out, flags.overwrite)
        groups = itertools.chain([first], groups)
        rows = [classifier.predict(g, not flags.center_only) for g in groups]
    scores = np.concatenate(rows)
    print(
        f"Classified {plural(len(scores), 'input')} in "
        f"{time.perf_counter() - start:.2f} s."
    )
    content = io.BytesIO()
    np.save(content, scores)
    cli.write_file(out, content.getvalue(), flags.overwrite)
    print(f"Saved results into {out}")
    return 0


def read_groups(flags: Namespace, color: bool) -> Iterator[list[np.ndarray]]:
    """Yields lists of a few images, (H, W, C) float32 each.

    Args:
      flags: INPUT and ext are looked at.
      color: whether files are read as colours, else as grays.

    Raises:
      DataError: INPUT is missing, broken or empty.
    """
    path = os.path.expanduser(flags.INPUT)
    if path.endswith(".npy"):
        array = net_images.read_npy(path)
        if array.ndim != 4 or not len(array):
            problem = f"is an array of shape {array.shape}"
            raise DataError(describe(path, problem, "(N, H, W, C)"))
        for start in range(0, len(array), _GROUP):
            yield list(array[start : start + _GROUP].astype(np.float32))
        return
    paths = [path]
    if os.path.isdir(path):
        names = sorted(n for n in os.listdir(path) if n.endswith(f".{flags.ext}"))
        paths = [os.path.join(path, name) for name in names]
        if not paths:
            raise DataError(describe(path, f"holds no .{flags.ext} files", "--ext=png"))
    for start in range(0, len(paths), _GROUP):
        yield [load_image(p, color=color) for p in paths[start : start + _GROUP]]


if __name__ == "__main__":
    cli.run(main)
