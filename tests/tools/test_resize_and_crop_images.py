import os
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from jaxcaffe.errors import ConfigError, DataError
from jaxcaffe.tools import resize_and_crop_images as tool

SIDE = 20


def stripes(height, width):
    """Three vertical or horizontal stripes, of which the middle one is white."""
    pixels = np.zeros((height, width, 3), np.uint8)
    if width > height:
        cut = (width - height) // 2
        pixels[:, cut : cut + height] = 255
    else:
        cut = (height - width) // 2
        pixels[cut : cut + width] = 255
    return pixels


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of images with a list of them, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "a b").mkdir(parents=True)
    cv2.imwrite("in/wide.png", stripes(40, 120))
    cv2.imwrite("in/a b/tall.jpg", stripes(90, 30))
    cv2.imwrite("in/small.png", stripes(5, 15))
    (tmp_path / "list").write_text("in/wide.png 0\na b/tall.jpg 12\n\nsmall.png\n")
    return tmp_path


def call(*argv):
    fixed = ["--input=list", "--input_folder=in/", "-output_folder", "out"]
    return tool.main([*fixed, f"--output_side_length={SIDE}", *argv])


def test_opencv_keeps_the_middle_square_and_the_type(folder):
    assert call("--num_clients=1") == 0
    for name in ("wide.png", "a b/tall.jpg", "small.png"):
        made = cv2.imread(f"out/{name}")
        assert made.shape == (SIDE, SIDE, 3)
        # The edge of the stripe may bleed into the outermost pixels.
        assert made[3:-3, 3:-3].min() > 240, name
    assert pathlib.Path("out/wide.png").read_bytes().startswith(b"\x89PNG")


def test_pil_keeps_the_middle_square_as_jpeg_and_enlarges_nothing(folder):
    assert call("--num_clients=1", "--image_lib=PIL") == 0
    sizes = {}
    for name in ("wide.png", "a b/tall.jpg", "small.png"):
        with Image.open(f"out/{name}") as made:
            assert made.format == "JPEG"
            assert np.asarray(made.convert("L"))[2:-2, 2:-2].min() > 230, name
            sizes[name] = made.size
    assert sizes == {
        "wide.png": (SIDE, SIDE),
        "a b/tall.jpg": (SIDE, SIDE),
        "small.png": (5, 5),
    }


@pytest.mark.parametrize(
    ("height", "width", "resized"), [(50, 99, (20, 39)), (99, 50, (39, 20))]
)
def test_crop_square_longer_side_is_rounded_down(height, width, resized):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    whole = cv2.resize(pixels, resized[::-1])
    # 39 - 20 = 19 pixels too many: 9 before, 10 behind.
    top, left = (0, 9) if width > height else (9, 0)
    expected = whole[top : top + SIDE, left : left + SIDE]
    np.testing.assert_array_equal(tool.crop_square(pixels, SIDE), expected)


@pytest.mark.parametrize("mode", ["P", "RGBA", "L", "CMYK", "I;16"])
def test_crop_with_pil_takes_every_mode(mode, tmp_path):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new(mode, (90, 60)).save(path)
    content = tool.crop_with_pil(path.read_bytes(), SIDE, "a")
    made = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert made.shape == (SIDE, SIDE, 3)


def test_crop_with_pil_thins_out_no_further_than_the_side(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (110, 80)).save(path)
    content = tool.crop_with_pil(path.read_bytes(), 25, "a")
    made = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert made.shape == (25, 25, 3)


def test_processes_give_what_one_process_gives(folder):
    many = [f"{i}.png" for i in range(40)]
    for i, name in enumerate(many):
        cv2.imwrite(f"in/{name}", stripes(30 + i, 40))
    pathlib.Path("list").write_text("\n".join(many))
    assert call("--num_clients=1") == 0
    os.rename("out", "one")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "jaxcaffe.tools.resize_and_crop_images"),
            *("--input=list", "--input_folder=in", "--output_folder=out"),
            *(f"--output_side_length={SIDE}", "--num_clients=2"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "Processed 40 images.\n"
    for name in many:
        one = pathlib.Path("one", name).read_bytes()
        assert pathlib.Path("out", name).read_bytes() == one


@pytest.mark.parametrize("library", ["opencv", "pil"])
def test_bad_images_are_listed_and_the_others_made(folder, capsys, library):
    whole = pathlib.Path("in/a b/tall.jpg").read_bytes()
    pathlib.Path("in/cut.jpg").write_bytes(whole[: len(whole) // 2])
    pathlib.Path("in/empty.png").write_bytes(b"")
    pathlib.Path("in/text.png").write_text("no picture")
    names = ["gone.png", "cut.jpg", "empty.png", "text.png", "wide.png"]
    pathlib.Path("list").write_text("\n".join(names))
    assert call("--num_clients=1", f"--image_lib={library}") == 1
    said = capsys.readouterr().err
    assert "4 of 5 images could not be made:\n  in/gone.png: cannot be read" in said
    assert all(f"in/{name}: " in said for name in names[:4])
    assert os.listdir("out") == ["wide.png"]


def test_existing_image_is_kept_unless_told_otherwise(folder, capsys):
    os.mkdir("out")
    pathlib.Path("out/wide.png").write_text("mine")
    assert call("--num_clients=1") == 1
    assert "out/wide.png: exists already" in capsys.readouterr().err
    assert pathlib.Path("out/wide.png").read_text() == "mine"
    assert call("--num_clients=1", "--overwrite") == 0
    assert cv2.imread("out/wide.png").shape == (SIDE, SIDE, 3)
    assert not [n for n in os.listdir("out") if "partial" in n]


@pytest.mark.parametrize(
    ("argv", "error", "message"),
    [
        (["--input="], ConfigError, "--input is not given"),
        (["--output_folder="], ConfigError, "--output_folder is not given"),
        (["--input_folder=no"], ConfigError, "no: is no folder"),
        (["--output_folder=in"], ConfigError, "in: is the input_folder too"),
        (["--output_side_length=0"], ConfigError, "--output_side_length is 0"),
        (["--num_clients=-1"], ConfigError, "--num_clients is -1"),
        (["--image_lib=gd"], ConfigError, '--image_lib is "gd"'),
        (["--input=gone"], DataError, "gone: cannot be read"),
        (["--input=empty"], DataError, "empty: names no images"),
        (["more"], ConfigError, "unrecognized arguments: .*more"),
    ],
)
def test_bad_flags_are_refused(folder, argv, error, message):
    pathlib.Path("empty").write_text("\n \n")
    with pytest.raises(error, match=message):
        call(*argv)
    assert not pathlib.Path("out").exists()
