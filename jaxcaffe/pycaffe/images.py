"""Image files as a net's user reads, resizes and crops them.

Follows caffe/python/caffe/io.py, its functions on images.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from scipy import ndimage

from jaxcaffe import image_io
from jaxcaffe.errors import CaffeError, ConfigError, DataError, describe
from jaxcaffe.proto.files import read_content

_GRAY = (0.2125, 0.7154, 0.0721)
"""Shares of R, G and B in the intensity, as scikit-image has them (ITU-R BT.709)."""


class ArrayError(CaffeError, ValueError):
    """An array or a message does not have the shape that is needed."""


def load_image(filename: str, color: bool = True) -> np.ndarray:
    """Reads one image file.

    Args:
      filename: a JPEG, PNG, BMP, TIFF, ... file.
      color: three channels, R, G, B; otherwise one, the intensity.

    Returns:
      (H, W, C) float32 from 0 to 1, C = 3 or 1. Transparency is dropped, rotation noted
      in EXIF is not applied.

    Raises:
      DataError: no such file, not an image, broken.

    Source: caffe/python/caffe/io.py, load_image, with scikit-image as it was then.
    Differs: OpenCV decodes.
    """
    content = np.frombuffer(read_content(filename, DataError), np.uint8)
    pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED) if content.size else None
    if pixels is None:
        raise DataError(
            describe(
                filename,
                "image cannot be decoded: it is empty, broken or of no known format",
                "a whole JPEG, PNG, BMP or other image that OpenCV reads",
            )
        )
    image = pixels.astype(np.float64)
    if pixels.dtype.kind == "u":
        image /= 2.0 ** (8 * pixels.dtype.itemsize) - 1
    if image.ndim == 3 and image.shape[2] > 1:
        image = image[:, :, 2::-1]
        if not color:
            image = image @ np.array(_GRAY)
    if image.ndim == 2:
        image = image[:, :, np.newaxis]
    if color and image.shape[2] == 1:
        image = np.tile(image, (1, 1, 3))
    return image.astype(np.float32)


def resize_image(
    im: np.ndarray, new_dims: Sequence[int], interp_order: int = 1
) -> np.ndarray:
    """Stretches an image without smoothing.

    With 1 or 3 channels pixels are squares, and whatever lies beyond the border has the
    image's least value; with other numbers of channels the outermost pixels' centres
    stay the outermost.

    Args:
      im: (H, W, C), any range.
      new_dims: rows and columns wanted.
      interp_order: 0 nearest, 1 linear, 2 to 5 splines.

    Returns:
      (new_dims[0], new_dims[1], C) float32.

    Raises:
      ArrayError: no image of three axes, or new_dims are not two.
      ConfigError: another order.

    Source: caffe/python/caffe/io.py, resize_image, with scikit-image as it was then (no
    smoothing before shrinking). Differs: rounding; orders 2 and 3 are splines.
    """
    im = np.asarray(im)
    if im.ndim != 3 or 0 in im.shape or len(new_dims) != 2:
        problem = f"an image of shape {im.shape} cannot get the size {tuple(new_dims)}"
        raise ArrayError(describe("resize_image", problem, "(H, W, C) and (H, W)"))
    if interp_order not in range(6):
        problem = f"interp_order is {interp_order}"
        raise ConfigError(describe("resize_image", problem, "0 to 5"))
    if interp_order == 1:
        return image_io.resize_image(im, tuple(int(length) for length in new_dims))
    factors = (new_dims[0] / im.shape[0], new_dims[1] / im.shape[1], 1)
    if im.shape[2] not in (1, 3):
        resized = ndimage.zoom(im, factors, order=interp_order)
        return resized.astype(np.float32)
    least, most = float(im.min()), float(im.max())
    resized = ndimage.zoom(
        im.astype(np.float64) - least,
        factors,
        order=interp_order,
        mode="grid-constant",
        grid_mode=True,
    )
    return np.clip(resized + least, least, most).astype(np.float32)


def oversample(
    images: Sequence[np.ndarray] | np.ndarray, crop_dims: Sequence[int]
) -> np.ndarray:
    """Cuts the four corners and the centre out of each image, and mirrors them.

    Args:
      images: (H, W, C) images of one size.
      crop_dims: rows and columns of a crop.

    Returns:
      (10 * N, crop_dims[0], crop_dims[1], C) float32: of each image top left, top
      right, bottom left, bottom right, centre, then the same five with their columns
      reversed.

    Raises:
      ArrayError: no image, or images of several sizes.
      ConfigError: crops do not fit into the images.

    Source: caffe/python/caffe/io.py, oversample. Differs: none.
    """
    stack = stack_images(images)
    dims = tuple(int(length) for length in crop_dims)
    image_io.check_crop(stack.shape[1:3], dims)
    return image_io.oversample(stack, dims)


def stack_images(images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Returns images of one shape as one (N, H, W, C) float32 array.

    Raises:
      ArrayError: no image, an image without three axes, several shapes.
    """
    shapes = {np.shape(image) for image in images}
    if len(shapes) != 1 or len(next(iter(shapes))) != 3:
        found = ", ".join(map(str, sorted(shapes))) or "none"
        problem = f"images have the shapes {found}"
        raise ArrayError(describe("", problem, "one shape (H, W, C) for all"))
    return np.stack([np.asarray(image, np.float32) for image in images])
