"""The file that names windows of images, read whole.

Follows DataLayerSetUp of caffe/src/caffe/layers/window_data_layer.cpp.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxcaffe.errors import DataError, describe, plural

_FORMAT = (
    "for each image `# INDEX`, its path, channels, height, width, the number of "
    "windows, and for each window `CLASS OVERLAP X1 Y1 X2 Y2`"
)


class Window(NamedTuple):
    """One window; corners are pixels, counted from 0, and belong to it."""

    image: int
    label: int
    x1: int
    y1: int
    x2: int
    y2: int
    line: int  # of the window file


class Image(NamedTuple):
    """What stands before an image's windows."""

    path: str
    channels: int
    height: int  # in pixels
    width: int
    num_windows: int


class WindowFile(NamedTuple):
    """A whole file; windows of neither kind are left out."""

    images: list[Image]
    background: list[Window]  # label 0
    objects: list[Window]


def read_windows(
    path: str, fg_threshold: np.float32, bg_threshold: np.float32
) -> WindowFile:
    """Reads a window file.

    Args:
      path: the file.
      fg_threshold: windows of at least this overlap are objects.
      bg_threshold: windows of less overlap are background.

    Raises:
      DataError: the file cannot be read, has no objects or no background, or a line is
        wrong.

    Source: caffe/src/caffe/layers/window_data_layer.cpp, DataLayerSetUp. Differs: what
    Caffe takes as it comes is an error, such as indices that do not count from 0.
    """
    words = _Words(path)
    images: list[Image] = []
    background: list[Window] = []
    objects: list[Window] = []
    while words:
        hashtag = words.word('"#"')
        if hashtag != "#":
            raise words.error(f'an image begins with "{hashtag}"', f'"#": {_FORMAT}')
        index = words.number("the image's index")
        if index != len(images):
            raise words.error(f"the image's index is {index}", f"{len(images)}")
        image = words.word("the image's path")
        channels = words.number("the number of channels")
        if channels != 3:
            raise words.error(
                f"the image has {plural(channels, 'channel')}", "3, as it is read"
            )
        height = words.number("the image's height", 1)
        width = words.number("the image's width", 1)
        num_windows = words.number("the number of windows", 0)
        images.append(Image(image, channels, height, width, num_windows))
        for _ in range(num_windows):
            label = words.number("a window's class", 0)
            overlap = words.real("a window's overlap")
            x1, y1, x2, y2 = (
                words.number(f"a window's {corner}")
                for corner in ("x1", "y1", "x2", "y2")
            )
            window = Window(index, label, x1, y1, x2, y2, words.line)
            if overlap >= fg_threshold:
                if not label:
                    raise words.error(
                        f"a window of overlap {overlap:g} has class 0, background",
                        f"a class of at least 1, or less than fg_threshold "
                        f"{fg_threshold:g}",
                    )
                objects.append(window)
            elif overlap < bg_threshold:
                background.append(window._replace(label=0))
    for kind, found, limit in (
        ("object", objects, f"overlap >= fg_threshold {fg_threshold:g}"),
        ("background", background, f"overlap < bg_threshold {bg_threshold:g}"),
    ):
        if not found:
            raise DataError(
                describe(path, f"there is no {kind} window", f"windows with {limit}")
            )
    return WindowFile(images, background, objects)


class _Words:
    """The words of a window file, and the line of each."""

    def __init__(self, path: str) -> None:
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                lines = file.read().splitlines()
        except OSError as error:
            raise DataError(
                describe(
                    path,
                    f"the window file cannot be read ({error.strerror})",
                    f"a text file with {_FORMAT}",
                )
            ) from error
        self._path = path
        self._words = [(w, n) for n, line in enumerate(lines, 1) for w in line.split()]
        self._next = 0
        self.line = 1

    def __bool__(self) -> bool:
        return self._next < len(self._words)

    def word(self, what: str) -> str:
        """Returns the next word."""
        if not self:
            raise self.error(f"the file ends where {what} should stand", _FORMAT)
        word, self.line = self._words[self._next]
        self._next += 1
        return word

    def number(self, what: str, least: int | None = None) -> int:
        """Returns the next word as a whole number."""
        word = self.word(what)
        try:
            value = int(word)
        except ValueError:
            raise self.error(f'{what} is "{word}"', "a whole number") from None
        if least is not None and value < least:
            raise self.error(f"{what} is {value}", f"at least {least}")
        return value

    def real(self, what: str) -> np.float32:
        """Returns the next word as a number."""
        word = self.word(what)
        try:
            return np.float32(word)
        except ValueError:
            raise self.error(f'{what} is "{word}"', "a number") from None

    def error(self, problem: str, accepted: str) -> DataError:
        """Returns an error that names the line of the last word."""
        return DataError(describe(f"{self._path}:{self.line}", problem, accepted))
