"""Images named by the lines of a text file, by line.

Follows caffe/src/caffe/layers/image_data_layer.cpp, caffe/tools/convert_imageset.cpp.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

import numpy as np

from jaxcaffe.data.image import read_image, to_planes
from jaxcaffe.data.lmdb import Row
from jaxcaffe.errors import CaffeError, DataError, describe
from jaxcaffe.proto.files import read_content

_LABEL = re.compile(r"[+-]?[0-9]+")
_LINE = "a path, a space and an integer, as in cat/1.jpg 0"


class Entry(NamedTuple):
    """One line of a list."""

    line: int  # from 1, for messages
    text: bytes  # as it stands in the file


class ImageListSource:
    """Random access to the images of a `path label` list.

    `source[i]` is {"data": (C, H, W) uint8, BGR or gray; "label": () float32} of the
    line i, from 0, of those that are not blank.

    Args:
      path: the list.
      root_folder: put before every name, as it is (it usually ends in a slash).
      new_height: rows to stretch every image to, or 0.
      new_width: columns to stretch every image to, or 0; both or none.
      is_color: three channels, otherwise one.

    Raises:
      DataError: the list cannot be read or is empty, or a line is wrong; an image
        cannot be read.

    Source: caffe/src/caffe/layers/image_data_layer.cpp DataLayerSetUp, load_batch.
    Differs: see `parse_entry`; blank lines are passed over, at which Caffe stops.
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
        self._names, self._labels, self._lines = read_image_list(path)

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
            "data": to_planes(pixels),
            "label": np.asarray(self._labels[index], np.float32),
        }

    def key(self, index: int) -> str:
        """Returns list, line and name, for messages."""
        name = self._names[index].encode("utf-8", "surrogateescape")
        return f"{self._line(index)} {name.decode('utf-8', 'backslashreplace')}"

    def __repr__(self) -> str:
        return f"image list {self.path} ({len(self)} images)"

    def _line(self, index: int) -> str:
        return f"{self.path}:{self._lines[index]}"


def read_image_list(path: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Returns what a list's lines say, blank ones left out.

    Args:
      path: the list.

    Returns:
      Names; labels (N,) int32; the lines' numbers (N,) int32, from 1.

    Raises:
      DataError: the list cannot be read or is empty, or a line is wrong.

    Source: caffe/src/caffe/layers/image_data_layer.cpp DataLayerSetUp. Differs: see
    `parse_entry`.
    """
    entries = read_entries(path)
    names, labels = [], np.zeros(len(entries), np.int32)
    for index, entry in enumerate(entries):
        try:
            name, labels[index] = parse_entry(entry.text)
        except DataError as error:
            raise DataError(describe(f"{path}:{entry.line}", str(error))) from None
        names.append(name)
    return names, labels, np.array([entry.line for entry in entries], np.int32)


def read_entries(path: str) -> list[Entry]:
    """Returns the lines of a list that are not blank, with their numbers.

    Raises:
      DataError: the file cannot be read, or is empty.
    """
    lines = read_content(path, DataError).split(b"\n")
    entries = [Entry(i, text) for i, text in enumerate(lines, 1) if text.strip()]
    if not entries:
        raise DataError(describe(path, "names no images", "lines such as cat/1.jpg 0"))
    return entries


def parse_entry(text: bytes) -> tuple[str, int]:
    """Returns path and label of a line, split at its last space.

    Raises:
      DataError: no label, or one that is no 32-bit integer.

    Source: caffe/src/caffe/layers/image_data_layer.cpp DataLayerSetUp. Differs: Caffe
    takes the digits that a label begins with, or 0 for a label without any.
    """
    path, space, word = text.rstrip(b"\r").rpartition(b" ")
    label = os.fsdecode(word)
    if not space:
        raise DataError(describe("", "no space stands before a label", _LINE))
    if not _LABEL.fullmatch(label):
        raise DataError(describe("", f"label {label!r} is no integer", _LINE))
    if not -(2**31) <= int(label) < 2**31:
        raise DataError(describe("", f"label {label} is beyond 32 bits", _LINE))
    return os.fsdecode(path), int(label)
