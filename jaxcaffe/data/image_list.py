"""Images named by the lines of a text file, by line.

Follows caffe/src/caffe/layers/image_data_layer.cpp.
"""

from __future__ import annotations

import re

import numpy as np

from jaxcaffe.data.image import read_image
from jaxcaffe.data.lmdb import Row
from jaxcaffe.errors import CaffeError, DataError, describe


class ImageListSource:
    """Random access to the images of a `path label` list.

    `source[i]` is {"data": (C, H, W) uint8, BGR or gray; "label": () float32} of line
    i + 1.

    Args:
      path: the list.
      root_folder: put before every name, as it is (it usually ends in a slash).
      new_height: rows to stretch every image to, or 0.
      new_width: columns to stretch every image to, or 0; both or none.
      is_color: three channels, otherwise one.

    Raises:
      DataError: the list cannot be read or is empty; an image cannot be read.

    Source: caffe/src/caffe/layers/image_data_layer.cpp DataLayerSetUp, load_batch.
    Differs: none.
    """

    groups: tuple[int, ...] | None = None

    def __init__(
        self,
        path: str,
        root_folder: str = "",
        new_height: int = 0,
        new_width: int = 0,
        is_color: bool = True,
    ) -> None:
        self.path = path
        self._root_folder = root_folder
        self._new_height = new_height
        self._new_width = new_width
        self._is_color = is_color
        self._names, self._labels = read_image_list(path)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Row:
        """Returns {"data": (C, H, W) uint8, "label": () float32}."""
        try:
            pixels = read_image(
                self._root_folder + self._names[index],
                self._is_color,
                self._new_height,
                self._new_width,
            )
        except CaffeError as error:
            raise DataError(describe(self._line(index), str(error))) from error
        return {
            "data": np.ascontiguousarray(pixels.transpose(2, 0, 1)),
            "label": np.asarray(self._labels[index], np.float32),
        }

    def key(self, index: int) -> str:
        """Returns list, line and name, for messages."""
        name = self._names[index].encode("utf-8", "surrogateescape")
        return f"{self._line(index)} {name.decode('utf-8', 'backslashreplace')}"

    def __repr__(self) -> str:
        return f"image list {self.path} ({len(self)} images)"

    def _line(self, index: int) -> str:
        return f"{self.path}:{index + 1}"


def read_image_list(path: str) -> tuple[list[str], np.ndarray]:
    """Returns the names and the labels of a list's lines.

    The label stands after the last blank of the line, so names may hold blanks. It is
    read as C's atoi does: leading digits count, none at all mean 0; so a line without
    a blank is a name with label 0.

    Args:
      path: the list.

    Returns:
      Names, and labels (N,) int32; one each per line, empty lines included.

    Raises:
      DataError: the list cannot be read or has no line.

    Source: caffe/src/caffe/layers/image_data_layer.cpp DataLayerSetUp. Differs: none.
    """
    try:
        # surrogateescape: a name need not be UTF-8.
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as f:
            lines = f.read().split("\n")
    except OSError as error:
        raise DataError(
            describe(
                path,
                f"the list of images cannot be read ({error.strerror})",
                "a text file with lines `path label`",
            )
        ) from error
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise DataError(describe(path, "the list of images is empty"))
    names, labels = [], np.zeros(len(lines), np.int32)
    for index, line in enumerate(lines):
        name, _, label = line.rpartition(" ")
        names.append(name if " " in line else line)
        labels[index] = _atoi(label)
    return names, labels


def _atoi(text: str) -> int:
    match = re.match(r"[ \t\n\v\f\r]*([+-]?[0-9]+)", text)
    value = int(match[1]) if match else 0
    # glibc's atoi: strtol to 64 bits, saturating, cut down to an int.
    value = min(max(value, -(2**63)), 2**63 - 1)
    return (value + 2**31) % 2**32 - 2**31
