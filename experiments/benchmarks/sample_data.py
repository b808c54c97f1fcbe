"""Images to read in benchmarks: a folder of the user's, or made up here.

Made-up ones are 500 x 375 JPEG files of about 110 kB, as ImageNet's mostly are, whose
noise is strong in coarse and weak in fine structures, as in photographs.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import cv2
import lmdb
import numpy as np

from jaxcaffe.data.datum import write_image_datum
from jaxcaffe.proto import text
from jaxcaffe.tools import convert_imageset

ROWS, COLUMNS = 375, 500
_SUFFIXES = (".jpg", ".jpeg")


SOLVER = """
net: "{net}" base_lr: 1e-6 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.0005
max_iter: 1 random_seed: 1 snapshot_prefix: "{folder}/x"
"""


class Case(NamedTuple):
    """A net, its batch, and the images in its database."""

    name: str
    batch: int
    size: int
    channels: int


def find_images(folder: str, scratch: str, count: int = 200) -> list[str]:
    """Returns paths of JPEG files.

    Args:
      folder: where to look, also further down; "" makes up `count` of them.
      scratch: a folder for those.
      count: how many to make up.
    """
    if not folder:
        return [_make(scratch, number) for number in range(count)]
    found = [
        os.path.join(place, name)
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(_SUFFIXES)
    ]
    if not found:
        raise SystemExit(f"{folder}: no .jpg file there")
    return sorted(found)


def write_list(paths: list[str], count: int, file: str) -> None:
    """Writes a list of `count` lines for ImageData, the paths again and again."""
    with open(file, "w") as out:
        for number in range(count):
            out.write(f"{paths[number % len(paths)]} {number % 1000}\n")


def write_lmdb(image_list: str, database: str, size: int) -> None:
    """Makes a database of size x size pixels, as Caffe's ImageNet example does."""
    convert_imageset.main(
        [f"--resize_height={size}", f"--resize_width={size}", "", image_list, database]
    )


def write_training(case: Case, folder: str, images: str, lines: str = "") -> str:
    """Writes a database, and a net and a solver that train on it.

    Args:
      case: the net of prototxt/NAME/train_val.prototxt.
      folder: for all of it.
      images: a folder of JPEG files, or "".
      lines: more lines for the solver.

    Returns:
      The solver's path.
    """
    database = os.path.join(folder, f"{case.name}_lmdb")
    if case.channels == 3 and case.size > 200:
        listed = os.path.join(folder, "list")
        write_list(find_images(images, folder), 1000, listed)
        write_lmdb(listed, database, case.size)
    else:
        _write_noise(case, database)
    net, _ = text.read_net(f"prototxt/{case.name}/train_val.prototxt")
    for layer in net.layer:
        if layer.type == "Data":
            layer.data_param.source = database
            layer.data_param.batch_size = case.batch
            if layer.transform_param.mean_file:
                layer.transform_param.ClearField("mean_file")
                layer.transform_param.mean_value.append(110)
    path = os.path.join(folder, f"{case.name}.prototxt")
    with open(path, "w") as file:
        file.write(text.format_message(net))
    solver = os.path.join(folder, f"{case.name}_solver.prototxt")
    with open(solver, "w") as file:
        file.write(SOLVER.format(net=path, folder=folder) + lines)
    return solver


def _write_noise(case: Case, path: str) -> None:
    rng = np.random.default_rng(0)
    with (
        lmdb.open(path, map_size=1 << 30) as database,
        database.begin(write=True) as transaction,
    ):
        for number in range(5000):
            shape = (case.size, case.size, case.channels)
            pixels = rng.integers(0, 256, shape, np.uint8)
            datum = write_image_datum(pixels, number % 10)
            transaction.put(b"%08d" % number, datum)


def _make(folder: str, number: int) -> str:
    path = os.path.join(folder, f"{number:04d}.jpg")
    if not os.path.exists(path):
        rng = np.random.default_rng(number)
        image = np.zeros((ROWS, COLUMNS, 3), np.float32)
        for cells in (3, 12, 48, 192):
            noise = rng.normal(size=(cells, cells, 3)).astype(np.float32) / cells**0.6
            image += cv2.resize(noise, (COLUMNS, ROWS), interpolation=cv2.INTER_CUBIC)
        image += rng.normal(size=image.shape) * 0.05
        pixels = np.clip(128 + 90 * image, 0, 255).astype(np.uint8)
        cv2.imwrite(path, pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])
    return path
