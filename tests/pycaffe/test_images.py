"""load_image, resize_image and oversample against what Caffe's gave."""

import cv2
import numpy as np
import pytest

from jaxcaffe.errors import ConfigError, DataError
from jaxcaffe.pycaffe import images

# Caffe scales an image to 0..1 in float32 before it resizes, and back: a few units in
# the last place of the widest range, 340.
RESIZE_TOLERANCE = 1e-4


@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize("name", ["rgb", "rgba", "gray", "flip"])
def test_load_image_gives_what_caffe_gives(pictures, recorded, name, color):
    image = images.load_image(f"{name}.png", color)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, recorded[f"load/{name}/{color}"])


def test_load_image_of_16_bits_keeps_them(pictures):
    pixels = np.array([[[0, 1, 65535], [257, 32768, 40000]]], np.uint16)
    cv2.imwrite("deep.png", pixels[:, :, ::-1])
    expected = (pixels / 65535).astype(np.float32)
    np.testing.assert_array_equal(images.load_image("deep.png"), expected)


def test_load_image_with_exif_rotation_is_not_rotated(pictures):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 8:] = 255
    ok, encoded = cv2.imencode(".jpg", pixels)
    assert ok
    # A segment APP1 with one entry: orientation 6, a quarter turn.
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    content = encoded.tobytes()
    (pictures / "turned.jpg").write_bytes(content[:2] + segment + content[2:])
    assert cv2.imread("turned.jpg").shape == (16, 8, 3)  # the note is understood
    assert images.load_image("turned.jpg").shape == (8, 16, 3)


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_load_image_of_no_image_raises(pictures, content):
    if content is not None:
        (pictures / "x.png").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.png: .*(cannot be read|decoded)"):
        images.load_image("x.png")


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("dims", [(14, 5), (4, 3)])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_resize_image_gives_what_caffe_gives(recorded, channels, dims, order):
    resized = images.resize_image(recorded[f"im/{channels}"], dims, order)
    expected = recorded[f"resize/{channels}/{dims[0]}/{dims[1]}/{order}"]
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, expected, rtol=0, atol=RESIZE_TOLERANCE)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_resize_image_of_one_value_keeps_it_up_to_the_rim(order):
    resized = images.resize_image(np.full((4, 5, 3), 7.5), (9, 3), order)
    np.testing.assert_array_equal(resized, np.full((9, 3, 3), 7.5, np.float32))


@pytest.mark.parametrize(
    ("shape", "dims", "order", "message"),
    [
        ((4, 5), (2, 2), 1, r"shape \(4, 5\).*Accepted: \(H, W, C\)"),
        ((4, 5, 3), (2, 2, 3), 1, r"size \(2, 2, 3\)"),
        ((0, 5, 3), (2, 2), 1, r"shape \(0, 5, 3\)"),
        ((4, 5, 3), (2, 2), 6, r"interp_order is 6\. Accepted: 0 to 5"),
    ],
)
def test_resize_image_of_what_is_none_raises(shape, dims, order, message):
    with pytest.raises((images.ArrayError, ConfigError), match=message):
        images.resize_image(np.zeros(shape), dims, order)


def test_oversample_gives_what_caffe_gives(recorded):
    crops = images.oversample(list(recorded["ov/in"]), (5, 6))
    np.testing.assert_array_equal(crops, recorded["ov/out"])


@pytest.mark.parametrize("shapes", [[], [(5, 5, 3), (5, 6, 3)], [(5, 5)]])
def test_oversample_of_images_of_several_shapes_raises(shapes):
    with pytest.raises(ValueError, match="images have the shapes"):
        images.oversample([np.zeros(shape) for shape in shapes], (2, 2))


def test_oversample_of_images_smaller_than_crops_raises():
    with pytest.raises(ConfigError, match="smaller than the net's input"):
        images.oversample([np.zeros((5, 5, 3))], (6, 2))
