"""Images to read in benchmarks: a folder of the user's, or made up here.

Made-up ones are 500 x 375 JPEG files of about 110 kB, as ImageNet's mostly are, whose
noise is strong in coarse and weak in fine structures, as in photographs.
"""

from __future__ import annotations

import os

import cv2
import numpy as np

from jaxcaffe.tools import convert_imageset

ROWS, COLUMNS = 375, 500
_SUFFIXES = (".jpg", ".jpeg")


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
