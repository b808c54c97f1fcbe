"""Windows of images, objects and background in a fixed mixture, as R-CNN trains.

Follows caffe/src/caffe/layers/window_data_layer.cpp.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from jaxcaffe.data.image import decode_file, resize_image
from jaxcaffe.data.records import draw
from jaxcaffe.errors import DataError, describe, plural
from jaxcaffe.proto.files import read_content

WARP, SQUARE = "warp", "square"
"""What crop_mode may be."""

_WINDOW = 3
"""What these random numbers are for; records.py has the other purposes."""

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


class Place(NamedTuple):
    """Which part of an image is resized to what, and where that goes in the crop."""

    x1: int
    y1: int
    x2: int
    y2: int
    height: int  # after resizing
    width: int
    pad_h: int  # rows above it in the crop
    pad_w: int  # columns left of it


class WindowSource:
    """Windows by index; a source for pipeline.open_feed.

    Record 2 * i + m is window i, mirrored if m is 1: {"data": (3, crop_size, crop_size)
    uint8 BGR, zero outside the image; "label": () float32; "window": (4,) int32, the
    first row and column of the image's part and its height and width}.

    Args:
      path: the window file.
      crop_size: rows and columns of a crop.
      mirror: half of the crops are mirrored.
      fg_threshold: windows of at least this overlap are objects.
      bg_threshold: windows of less overlap are background, label 0.
      fg_fraction: share of objects in a batch, rounded down to whole records.
      context_pad: pixels of context on each side of a crop.
      crop_mode: "warp", whatever the proportions; "square", the smallest square around
        the window.
      cache_images: keep the image files' bytes in memory.
      root_folder: put before every path, as it is.

    Raises:
      DataError: the file cannot be read, has no objects or no background, or a line is
        wrong.

    Source: caffe/src/caffe/layers/window_data_layer.cpp, DataLayerSetUp and load_batch.
    Differs: images are cached when they are first read; an image that cannot be read is
    an error, not a row of zeros.
    """

    groups: tuple[int, ...] | None = None

    def __init__(
        self,
        path: str,
        *,
        crop_size: int,
        mirror: bool = False,
        fg_threshold: float = 0.5,
        bg_threshold: float = 0.5,
        fg_fraction: float = 0.25,
        context_pad: int = 0,
        crop_mode: str = WARP,
        cache_images: bool = False,
        root_folder: str = "",
    ) -> None:
        self.path = path
        self._crop_size = crop_size
        self._mirror = mirror
        self._fg_fraction = np.float32(fg_fraction)
        self._context_pad = context_pad
        self._is_square = crop_mode == SQUARE
        self._cache: dict[int, bytes] | None = {} if cache_images else None
        images, background, objects = _read_windows(
            path, np.float32(fg_threshold), np.float32(bg_threshold)
        )
        self._images = [root_folder + image for image in images]
        self._windows = background + objects
        self._background = len(background)

    def __len__(self) -> int:
        return len(self._windows)

    def pick(self, seed: int, position: int, batch_size: int) -> int:
        """Returns the record at a position of the endless sequence.

        The first rows of each batch are background, the others objects; each is drawn
        anew, so a window may come again at once.

        Args:
          seed: of the run.
          position: records before it.
          batch_size: of the whole batch.
        """
        objects = int(np.float32(batch_size) * self._fg_fraction)
        is_object = position % batch_size >= batch_size - objects
        start = self._background if is_object else 0
        count = len(self) - self._background if is_object else self._background
        which, side = draw(seed, _WINDOW, position, 2)
        return 2 * (start + which % count) + (side % 2 if self._mirror else 0)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Returns {"data": ..., "label": ..., "window": ...}; see the class."""
        window, is_mirrored = self._windows[index // 2], index % 2 == 1
        where = self.key(index)
        image = self._read_image(window.image, where)
        place = self._place(window, image.shape[1], image.shape[0], is_mirrored, where)
        part = image[place.y1 : place.y2 + 1, place.x1 : place.x2 + 1]
        part = resize_image(part, place.height, place.width, where)
        if is_mirrored:
            part = part[:, ::-1]
        crop = np.zeros((3, self._crop_size, self._crop_size), np.uint8)
        rows = slice(place.pad_h, place.pad_h + place.height)
        columns = slice(place.pad_w, place.pad_w + place.width)
        crop[:, rows, columns] = part.transpose(2, 0, 1)
        return {
            "data": crop,
            "label": np.asarray(window.label, np.float32),
            "window": np.array(
                [place.pad_h, place.pad_w, place.height, place.width], np.int32
            ),
        }

    def key(self, index: int) -> str:
        """Returns file and line of the window, for messages."""
        return f"{self.path}:{self._windows[index // 2].line}"

    def __repr__(self) -> str:
        objects = len(self) - self._background
        return (
            f"window file {self.path} ({len(self._images)} images, {objects} object "
            f"and {self._background} background windows)"
        )

    def _read_image(self, image: int, where: str) -> np.ndarray:
        path = self._images[image]
        content = None if self._cache is None else self._cache.get(image)
        try:
            if content is None:
                content = read_content(path, DataError)
                if self._cache is not None:
                    self._cache[image] = content
            return decode_file(content, "color", path)
        except DataError as error:
            raise DataError(describe(where, str(error))) from error

    def _place(
        self, window: Window, width: int, height: int, is_mirrored: bool, where: str
    ) -> Place:
        x1, y1, x2, y2 = window.x1, window.y1, window.x2, window.y2
        size = self._crop_size
        if self._context_pad or self._is_square:
            place = _expand(
                (x1, y1, x2, y2),
                (width, height),
                size,
                self._context_pad,
                self._is_square,
                is_mirrored,
            )
        else:
            place = Place(x1, y1, x2, y2, size, size, 0, 0)
        is_inside = 0 <= place.x1 <= place.x2 < width
        is_inside &= 0 <= place.y1 <= place.y2 < height
        if not is_inside or place.height < 1 or place.width < 1:
            raise DataError(
                describe(
                    where,
                    f"the window ({x1}, {y1}) to ({x2}, {y2}) does not lie in the "
                    f"image of {width} x {height} pixels",
                    f"x from 0 to {width - 1}, y from 0 to {height - 1}",
                )
            )
        return place


def _expand(
    corners: tuple[int, int, int, int],
    image: tuple[int, int],
    crop_size: int,
    context_pad: int,
    is_square: bool,
    is_mirrored: bool,
) -> Place:
    """Adds context around a window, and finds what of it lies in the image.

    Args:
      corners: x1, y1, x2, y2 of the window.
      image: its width and height.
      crop_size: rows and columns of the crop.
      context_pad: pixels of context on each side of the crop.
      is_square: the window is widened to a square first.
      is_mirrored: the crop will be.

    Source: caffe/src/caffe/layers/window_data_layer.cpp, load_batch. Differs: none; all
    is float32, as there.
    """
    x1, y1, x2, y2 = corners
    size = np.float32(crop_size)
    context_scale = size / np.float32(crop_size - 2 * context_pad)
    half_height = np.float32((y2 - y1 + 1) / 2)
    half_width = np.float32((x2 - x1 + 1) / 2)
    center_x = np.float32(x1) + half_width
    center_y = np.float32(y1) + half_height
    if is_square:
        half_height = half_width = max(half_height, half_width)
    x1 = _round(center_x - half_width * context_scale)
    x2 = _round(center_x + half_width * context_scale)
    y1 = _round(center_y - half_height * context_scale)
    y2 = _round(center_y + half_height * context_scale)
    scale_x = size / np.float32(x2 - x1 + 1)
    scale_y = size / np.float32(y2 - y1 + 1)
    left, right = max(0, -x1), max(0, x2 - image[0] + 1)
    above, below = max(0, -y1), max(0, y2 - image[1] + 1)
    x1, x2, y1, y2 = x1 + left, x2 - right, y1 + above, y2 - below
    width = _round(np.float32(x2 - x1 + 1) * scale_x)
    height = _round(np.float32(y2 - y1 + 1) * scale_y)
    pad_h = _round(np.float32(above) * scale_y)
    # The padding is mirrored too.
    pad_w = _round(np.float32(right if is_mirrored else left) * scale_x)
    # Rounding may make the sum too large.
    return Place(
        x1,
        y1,
        x2,
        y2,
        min(height, crop_size - pad_h),
        min(width, crop_size - pad_w),
        pad_h,
        pad_w,
    )


def _round(value: np.float32) -> int:
    """Rounds halves away from zero, as C's round."""
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), value))


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


def _read_windows(
    path: str, fg_threshold: np.float32, bg_threshold: np.float32
) -> tuple[list[str], list[Window], list[Window]]:
    """Returns the images' paths, the background windows and the object windows."""
    words = _Words(path)
    images: list[str] = []
    background: list[Window] = []
    objects: list[Window] = []
    while words:
        hashtag = words.word('"#"')
        if hashtag != "#":
            raise words.error(f'an image begins with "{hashtag}"', f'"#": {_FORMAT}')
        index = words.number("the image's index")
        if index != len(images):
            raise words.error(f"the image's index is {index}", f"{len(images)}")
        images.append(words.word("the image's path"))
        channels = words.number("the number of channels")
        if channels != 3:
            raise words.error(
                f"the image has {plural(channels, 'channel')}", "3, as it is read"
            )
        for what in ("height", "width"):
            words.number(f"the image's {what}", 1)
        for _ in range(words.number("the number of windows", 0)):
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
    return images, background, objects
