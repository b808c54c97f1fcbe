"""Image files and encoded bytes to uint8 pixels, as Caffe gets them from OpenCV.

Follows ReadImageToCVMat, DecodeDatumToCVMat and their kin in src/caffe/util/io.cpp.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from jaxcaffe.errors import DataError, describe
from jaxcaffe.proto.files import read_content, show_path

Decode = Literal["color", "gray", "native"]
"""What a decoded image becomes: three channels in the order B, G, R; one channel; or
whatever the file holds (1, 3 or 4 channels)."""

_FLAGS: dict[Decode, int] = {
    "color": cv2.IMREAD_COLOR,
    "gray": cv2.IMREAD_GRAYSCALE,
    "native": cv2.IMREAD_UNCHANGED,
}
# Readers bring threads of their own, with which OpenCV's would only compete; and an
# error that names the file tells what is wrong, not warnings by OpenCV before it.
cv2.setNumThreads(1)
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
_JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"


def read_image(
    path: str, is_color: bool = True, new_height: int = 0, new_width: int = 0
) -> np.ndarray:
    """Reads one image file, optionally stretched to a given size.

    A JPEG that breaks off after its header is accepted, its missing part is grey;
    `is_truncated_jpeg` tells. Rotation noted in EXIF is applied.

    Args:
      path: the file.
      is_color: three channels in the order B, G, R; otherwise one grey channel.
      new_height: rows wanted, or 0.
      new_width: columns wanted, or 0; both or none.

    Returns:
      (H, W, C) uint8, 0 to 255, C = 3 or 1.

    Raises:
      DataError: no such file, not an image, broken, one of the sizes alone, or a size
        that OpenCV cannot make.

    Source: caffe/src/caffe/util/io.cpp, ReadImageToCVMat. Differs: raises where Caffe
    logs and returns an empty image; one new size alone is refused, not ignored.
    """
    if (new_height > 0) != (new_width > 0):
        raise DataError(
            describe(
                path,
                f"new_height is {new_height} and new_width is {new_width}",
                "both positive, or both 0",
            )
        )
    return resize_image(
        decode_file(
            read_content(path, DataError), "color" if is_color else "gray", path
        ),
        new_height,
        new_width,
        path,
    )


def decode_file(content: bytes, decode: Decode, where: str) -> np.ndarray:
    """Decodes what an image file holds; as `decode_image`, truncated JPEGs included.

    Libjpeg, reading a file that breaks off, acts as if the end marker stood there; so
    the marker is what this adds. (OpenCV refuses such bytes when they lie in memory.)
    """
    if is_truncated_jpeg(content):
        content += _JPEG_END
    return decode_image(content, decode, where)


def decode_image(content: bytes, decode: Decode, where: str) -> np.ndarray:
    """Decodes one encoded image.

    Args:
      content: a JPEG, PNG, BMP, ... file as bytes.
      decode: which channels to make. Only "native" ignores EXIF rotation.
      where: the record or file, for messages.

    Returns:
      (H, W, C) uint8, 0 to 255; C = 3 (B, G, R), 1, or what the file holds.

    Raises:
      DataError: empty, not an image, broken, or natively deeper than 8 bits.

    Source: caffe/src/caffe/util/io.cpp, DecodeDatumToCVMat, DecodeDatumToCVMatNative.
    Differs: none.
    """
    if not content:
        raise DataError(describe(show_path(where), "image is empty (0 bytes)"))
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), _FLAGS[decode])
    except cv2.error as error:  # such as more pixels than OpenCV allows
        problem = f"image cannot be decoded: {_reason(error)}"
        raise DataError(describe(show_path(where), problem)) from None
    if image is None:
        raise DataError(
            describe(
                show_path(where),
                f"image cannot be decoded: its {len(content)} bytes are corrupt, "
                "truncated, or of no known format",
                "a whole JPEG, PNG, BMP or other image that OpenCV reads",
            )
        )
    if image.dtype != np.uint8:
        raise DataError(
            describe(
                show_path(where),
                f"image has {image.dtype.itemsize * 8} bits per channel",
                "8 bits, or decoding with force_color or force_gray",
            )
        )
    return image if image.ndim == 3 else image[:, :, np.newaxis]


def resize_image(
    image: np.ndarray, new_height: int, new_width: int, where: str = ""
) -> np.ndarray:
    """Stretches an image bilinearly, whatever its proportions.

    Args:
      image: (H, W, C) uint8.
      new_height: rows, or 0 to leave the image alone.
      new_width: columns, or 0 to leave the image alone.
      where: the record or file, for messages.

    Returns:
      (new_height, new_width, C) uint8.

    Raises:
      DataError: OpenCV cannot make an image of that size.

    Source: caffe/src/caffe/util/io.cpp, ReadImageToCVMat. Differs: none.
    """
    if new_height <= 0 or new_width <= 0:
        return image
    size = (new_width, new_height)
    try:
        resized = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    except cv2.error as error:
        height, width, channels = image.shape
        problem = (
            f"the image of {channels} channels of {height} x {width} pixels cannot be "
            f"resized to {new_height} x {new_width}: {_reason(error)}"
        )
        raise DataError(describe(show_path(where), problem)) from None
    return resized if resized.ndim == 3 else resized[:, :, np.newaxis]


def to_planes(image: np.ndarray) -> np.ndarray:
    """(H, W, C) uint8 -> contiguous (C, H, W), as the records of Caffe hold it."""
    if image.shape[2] == 1:
        return np.ascontiguousarray(image).transpose(2, 0, 1)
    # Twice as fast as NumPy's transposition.
    planes = np.empty((image.shape[2], *image.shape[:2]), image.dtype)
    cv2.split(image, list(planes))
    return planes


def is_truncated_jpeg(content: bytes) -> bool:
    """Whether a JPEG's pixel data begin but never reach the end marker.

    Such a file gives a picture whose lower part is grey. An end marker inside the
    header (a thumbnail's) does not count: the header's segments are stepped over.
    """
    # Nearly all files end with the marker; looking at the end first saves the search.
    if not content.startswith(_JPEG_START) or content.endswith(_JPEG_END):
        return False
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        if marker == 0xDA:  # start of scan: pixel data follow
            return content.find(_JPEG_END, position) < 0
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return False


def _reason(error: cv2.error) -> str:
    return " ".join(str(error.err or error).split())
