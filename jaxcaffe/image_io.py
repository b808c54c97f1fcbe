"""Images as pycaffe hands them to a net: read, resized, cropped ten times.

Follows load_image, resize_image and oversample of caffe/python/caffe/io.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxcaffe.data.image import read_image
from jaxcaffe.errors import ConfigError, describe

CROPS = 10
"""Crops of one image that `oversample` makes."""


def load_image(path: str, color: bool = True) -> np.ndarray:
    """Reads one image file.

    Args:
      path: a JPEG, PNG, BMP, ... file.
      color: three channels, R, G, B; otherwise one, the intensity.

    Returns:
      (H, W, C) float32 from 0 to 1, C = 3 or 1.

    Raises:
      DataError: no such file, not an image, broken.

    Source: caffe/python/caffe/io.py, load_image. Differs: OpenCV reads, as it does for
    training: deeper images become 8 bits, EXIF rotation is applied, and intensity is
    0.299 R + 0.587 G + 0.114 B. `jaxcaffe.pycaffe.io.load_image` reads as pycaffe does.
    """
    pixels = read_image(path, is_color=color)
    return pixels[:, :, ::-1].astype(np.float32) / np.float32(255)


def resize_image(image: np.ndarray, new_dims: Sequence[int]) -> np.ndarray:
    """Stretches an image bilinearly, whatever its proportions, without smoothing.

    With 1 or 3 channels pixels are squares and whatever lies beyond the border has the
    image's least value, so that enlarged images have a dark rim; with other numbers of
    channels the outermost pixels' centres stay the outermost.

    Args:
      image: (H, W, C), any range.
      new_dims: rows and columns wanted.

    Returns:
      (new_dims[0], new_dims[1], C) float32.

    Source: caffe/python/caffe/io.py, resize_image, with scikit-image as it was then
    (resize with mode "constant", no anti-aliasing) and scipy.ndimage.zoom. Differs:
    rounding.
    """
    if image.shape[:2] == tuple(new_dims):
        return image.astype(np.float32)
    is_picture = image.shape[2] in (1, 3)
    least = image.min() if is_picture else 0
    resized = image.astype(np.float64) - least
    for axis, length in enumerate(new_dims):
        resized = _resize_axis(resized, axis, int(length), is_picture)
    return (resized + least).astype(np.float32)


def oversample(images: np.ndarray, crop_dims: Sequence[int]) -> np.ndarray:
    """Cuts the four corners and the centre out of each image, and mirrors them.

    Args:
      images: (N, H, W, C).
      crop_dims: rows and columns of a crop.

    Returns:
      (10 * N, crop_dims[0], crop_dims[1], C): of each image top left, top right, bottom
      left, bottom right, centre, then the same five with their columns reversed.

    Source: caffe/python/caffe/io.py, oversample. Differs: none.
    """
    height, width = crop_dims
    down, right = images.shape[1] - height, images.shape[2] - width
    middle = _center(images.shape[1], height), _center(images.shape[2], width)
    corners = [(0, 0), (0, right), (down, 0), (down, right), middle]
    crops = np.stack(
        [images[:, y : y + height, x : x + width] for y, x in corners], axis=1
    )
    both = np.concatenate([crops, crops[:, :, :, ::-1]], axis=1)
    return both.reshape(-1, *both.shape[2:])


def center_crop(images: np.ndarray, crop_dims: Sequence[int]) -> np.ndarray:
    """Cuts the centre out of each image.

    Args:
      images: (N, H, W, C).
      crop_dims: rows and columns of a crop.

    Returns:
      (N, crop_dims[0], crop_dims[1], C).

    Source: caffe/python/caffe/classifier.py, predict. Differs: none.
    """
    height, width = crop_dims
    y, x = _center(images.shape[1], height), _center(images.shape[2], width)
    return images[:, y : y + height, x : x + width]


def check_crop(image_dims: Sequence[int], crop_dims: Sequence[int]) -> None:
    """Refuses crops that do not fit into the images.

    Raises:
      ConfigError: an image would have fewer rows or columns than a crop.
    """
    if any(i < c for i, c in zip(image_dims, crop_dims, strict=True)):
        rows, columns = image_dims
        raise ConfigError(
            describe(
                "image_dims",
                f"images of {rows} x {columns} pixels are smaller than the net's input",
                f"at least {crop_dims[0]},{crop_dims[1]}",
            )
        )


def _center(length: int, crop: int) -> int:
    return int(length / 2.0 - crop / 2.0)


def _resize_axis(
    image: np.ndarray, axis: int, length: int, is_picture: bool
) -> np.ndarray:
    old = image.shape[axis]
    if is_picture:
        position = (np.arange(length) + 0.5) * old / length - 0.5
    else:
        position = np.arange(length) * ((old - 1) / max(length - 1, 1))
    low = np.floor(position).astype(int)
    share = position - low
    shape = [1] * image.ndim
    shape[axis] = length
    total = np.zeros(1)
    for index, weight in ((low, 1 - share), (low + 1, share)):
        inside = (index >= 0) & (index < old)
        values = np.take(image, np.clip(index, 0, old - 1), axis=axis)
        total = total + values * np.where(inside, weight, 0).reshape(shape)
    return total
