"""Windows of images, objects and background in a fixed mixture, as R-CNN trains.

Follows caffe/src/caffe/layers/window_data_layer.cpp.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from jaxcaffe.data.image import decode_file, resize_image
from jaxcaffe.data.records import draw
from jaxcaffe.data.window_file import Window, read_windows
from jaxcaffe.errors import DataError, describe
from jaxcaffe.proto.files import read_content

WARP, SQUARE = "warp", "square"
"""What crop_mode may be."""

_WINDOW = 3
"""What these random numbers are for; records.py has the other purposes."""


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

    Attributes:
      file: what the window file says.

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
        self.file = read_windows(
            path, np.float32(fg_threshold), np.float32(bg_threshold)
        )
        self._root_folder = root_folder
        self._windows = self.file.background + self.file.objects
        self._background = len(self.file.background)

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
        images, background, objects = (len(part) for part in self.file)
        return (
            f"window file {self.path} ({images} images, {objects} object and "
            f"{background} background windows)"
        )

    def _read_image(self, image: int, where: str) -> np.ndarray:
        path = self._root_folder + self.file.images[image].path
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
