import json
from pathlib import Path

import numpy as np
import pytest

from jaxcaffe.data import image
from jaxcaffe.errors import DataError

GOLDEN = Path(__file__).parents[1] / "golden" / "data"
IMAGES = GOLDEN / "images"
# OpenCV versions may round a decoded or resized pixel differently; Caffe's was 4.6.
PIXEL_TOLERANCE = 2


@pytest.mark.parametrize(
    ("dump", "is_color", "new_height", "new_width"),
    [
        ("lmdb_all", True, 0, 0),
        ("lmdb_gray_all", False, 0, 0),
        ("lmdb_resized", True, 26, 26),
        ("lmdb_gray", False, 20, 24),
        ("lmdb_extra", True, 0, 0),
        ("lmdb_bad", True, 0, 0),  # holds bad/cut.jpg, a truncated JPEG
    ],
)
def test_read_image_matches_pixels_of_caffe(dump, is_color, new_height, new_width):
    arrays = np.load(GOLDEN / "dumps" / f"{dump}.npz")
    entries = json.loads((GOLDEN / "dumps" / f"{dump}.json").read_text())
    for i, entry in enumerate(entries):
        pixels = image.read_image(
            str(IMAGES / entry["key"][9:]), is_color, new_height, new_width
        )
        channels, height, width = entry["channels"], entry["height"], entry["width"]
        assert pixels.shape == (height, width, channels)
        assert pixels.dtype == np.uint8
        planes = arrays[f"data_{i:05d}"].view(np.uint8).reshape(channels, height, width)
        difference = pixels.transpose(2, 0, 1).astype(int) - planes.astype(int)
        assert np.abs(difference).max() <= PIXEL_TOLERANCE, entry["key"]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("missing.jpg", "missing.jpg: cannot be read: No such file"),
        ("empty.jpg", r"empty.jpg: image is empty \(0 bytes\)"),
        ("text.jpg", "text.jpg: image cannot be decoded: its 19 bytes"),
        ("head.jpg", "head.jpg: image cannot be decoded"),
        ("crc.png", "crc.png: image cannot be decoded"),
        ("cut.png", "cut.png: image cannot be decoded"),
        ("", "cannot be read: Is a directory"),
    ],
)
def test_read_image_unreadable_file_says_why(name, what, capfd):
    with pytest.raises(DataError, match=what):
        image.read_image(str(IMAGES / "bad" / name))
    assert "[ WARN" not in capfd.readouterr().err  # by OpenCV, before our own words


def test_read_image_nul_in_name_is_a_data_error():
    with pytest.raises(DataError, match=r"cannot be read: embedded null"):
        image.read_image("a\0b.jpg")


@pytest.mark.parametrize("sizes", [(20, 0), (0, 20)])
def test_read_image_one_new_size_is_refused(sizes):
    with pytest.raises(DataError, match=r"new_height is .* both positive, or both 0"):
        image.read_image(str(IMAGES / "same" / "a1.jpg"), True, *sizes)


def test_read_image_size_that_cannot_be_made_is_a_data_error():
    path = str(IMAGES / "same" / "a1.jpg")
    what = r"a1.jpg: .* 30 x 36 pixels cannot be resized to 2000000 x 2000000: "
    with pytest.raises(DataError, match=what):
        image.read_image(path, True, 2_000_000, 2_000_000)


def test_is_truncated_jpeg_of_golden_images_finds_the_cut_one():
    found = [
        str(path.relative_to(IMAGES))
        for path in sorted(IMAGES.rglob("*.*"))
        if image.is_truncated_jpeg(path.read_bytes())
    ]
    assert found == ["bad/cut.jpg"]


def test_is_truncated_jpeg_end_marker_of_thumbnail_does_not_count():
    whole = (IMAGES / "same" / "a1.jpg").read_bytes()
    thumbnail = b"\xff\xe1\x00\x08Ex\xff\xd9if"
    padded = whole[:2] + thumbnail + b"\xff" + whole[2:]
    assert not image.is_truncated_jpeg(padded)
    assert not image.is_truncated_jpeg(padded + b"more after the end")
    assert image.is_truncated_jpeg(padded[:-40])


def test_decode_image_truncated_jpeg_in_memory_is_refused():
    content = (IMAGES / "bad" / "cut.jpg").read_bytes()
    with pytest.raises(DataError, match=r"here: image cannot be decoded"):
        image.decode_image(content, "color", "here")


def test_decode_image_more_pixels_than_opencv_allows_is_a_data_error():
    # A PNG header that claims 200,000 x 200,000 pixels; its checksum is right.
    import struct
    import zlib

    header = b"IHDR" + struct.pack(">IIBBBBB", 200000, 200000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    with pytest.raises(DataError, match=r"here: image cannot be decoded"):
        image.decode_image(b"\x89PNG\r\n\x1a\n" + chunk + b"\0" * 64, "color", "here")


def test_resize_image_gray_keeps_its_channel_axis():
    assert image.resize_image(np.zeros((4, 5, 1), np.uint8), 7, 3).shape == (7, 3, 1)
