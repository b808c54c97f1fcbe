"""Makes square images of one size, in parallel: `resize_and_crop_images --input=LIST`.

Follows tools/extra/resize_and_crop_images.py of Caffe.
"""

from __future__ import annotations

import functools
import io
import multiprocessing
import os
import re
import secrets
from argparse import Namespace
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import cv2
import numpy as np
from PIL import Image

from jaxcaffe.data import image
from jaxcaffe.errors import CaffeError, ConfigError, DataError, describe
from jaxcaffe.progress import show_progress
from jaxcaffe.proto.files import read_content
from jaxcaffe.tools import cli

DESCRIPTION = """\
Cuts the central square out of every image that LIST names, shrinks it to
output_side_length pixels a side, and writes it under the same name below output_folder.

  resize_and_crop_images --input=train.txt --input_folder=ILSVRC2012/train/ \\
    --output_folder=ILSVRC2012/train_256/ --num_clients=8

Each line of LIST is a path below input_folder; a label behind it, as in the lists of
convert_imageset, is passed over. Images that cannot be read or written are listed at
the end, the others are made all the same; the exit status then is 1. With opencv small
images are enlarged and a file keeps its type; with pil, as in Caffe, small images keep
their size and every file becomes a JPEG of quality 75."""

_LABEL = re.compile(r"\s+[+-]?\d+$")
_CHUNK = 16  # files a process takes at a time
_SHOWN = 20  # bad files listed


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: the arguments without the program's name; None takes the process's.

    Returns:
      0, or 1 when an image could not be made.

    Raises:
      CaffeError: wrong flags, a list that is missing or empty, no input folder.

    Source: caffe/tools/extra/resize_and_crop_images.py. Differs: processes of this
    machine instead of MapReduce, which --num_clients counts; paths may hold spaces; no
    existing file is replaced without --overwrite; truncated JPEGs are bad with either
    library; bad images set the exit status.
    """
    parser = cli.Parser("resize_and_crop_images", DESCRIPTION)
    parser.flag("input", "", "the list of image files")
    parser.flag("input_folder", "", "what stands before every path of the list")
    parser.flag("output_folder", "", "where the images go; folders are made")
    parser.flag("output_side_length", 256, "rows and columns in pixels")
    parser.flag("image_lib", "opencv", "opencv, the faster, or pil", str.lower)
    parser.flag("num_clients", cli.count_cores(), "images made at a time, by processes")
    parser.flag("overwrite", False, "replace images that exist in output_folder")
    flags = parser.parse(argv)
    _check_flags(flags)
    paths = read_paths(flags.input, flags.input_folder)
    make = functools.partial(
        make_image,
        input_folder=flags.input_folder,
        output_folder=flags.output_folder,
        side=flags.output_side_length,
        image_lib=flags.image_lib,
        overwrite=flags.overwrite,
    )
    bad = []
    with show_progress("Resizing images", len(paths), unit="images") as advance:
        for problem in _map(make, paths, flags.num_clients):
            if problem:
                bad.append(problem)
            advance(1)
    if bad:
        cli.say(f"{len(bad)} of {len(paths)} images could not be made:")
        for problem in bad[:_SHOWN]:
            cli.say(f"  {problem}")
        if len(bad) > _SHOWN:
            cli.say(f"  and {len(bad) - _SHOWN} more")
    return 1 if bad else 0


def read_paths(list_path: str, input_folder: str = "") -> list[str]:
    """Returns the paths of a list, without labels and without the folder before them.

    Raises:
      DataError: the list is missing or names no images.
    """
    lines = os.fsdecode(read_content(list_path, DataError)).splitlines()
    paths = [_LABEL.sub("", line.strip().removeprefix(input_folder)) for line in lines]
    paths = [path.lstrip("/") for path in paths if path]
    if not paths:
        raise DataError(describe(list_path, "names no images", "lines as cat/1.jpg"))
    return paths


def make_image(
    path: str,
    *,
    input_folder: str,
    output_folder: str,
    side: int,
    image_lib: str,
    overwrite: bool,
) -> str:
    """Makes one image; returns what went wrong, "" for nothing.

    Args:
      path: below both folders.
      input_folder: where it is read.
      output_folder: where it is written; folders are made.
      side: in pixels.
      image_lib: "opencv" or "pil".
      overwrite: whether a file that exists may be replaced.
    """
    source = os.path.join(input_folder, path)
    target = os.path.join(output_folder, path)
    try:
        cli.refuse_existing(target, overwrite)
        if image_lib == "pil":
            content = crop_with_pil(read_content(source, DataError), side, source)
        else:
            content = _crop_with_opencv(source, side)
        os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
        _write(target, content, overwrite)
    except CaffeError as error:
        return str(error)
    except OSError as error:
        return describe(target, f"cannot be written: {error.strerror}")
    return ""


def crop_square(pixels: np.ndarray, side: int, where: str = "") -> np.ndarray:
    """Returns the central square of an image, in a given size.

    Args:
      pixels: (H, W, C) uint8.
      side: in pixels.
      where: the file, for messages.

    Returns:
      (side, side, C) uint8: the shorter side is resized to `side`, the longer one in
      proportion, rounded down; what then stands out at its ends is cut off.

    Source: caffe/tools/extra/resize_and_crop_images.py, OpenCVResizeCrop. Differs:
    none.
    """
    height, width = pixels.shape[:2]
    new_height = side * height // width if height > width else side
    new_width = side if height > width else side * width // height
    resized = image.resize_image(pixels, new_height, new_width, where)
    top, left = (new_height - side) // 2, (new_width - side) // 2
    return resized[top : top + side, left : left + side]


def crop_with_pil(content: bytes, side: int, where: str) -> bytes:
    """Returns the central square of an image file, shrunk to a size, as a JPEG file.

    Large images are first thinned out to twice the size; the square is then filtered.
    A square smaller than `side` stays as it is.

    Args:
      content: of the image file.
      side: in pixels.
      where: for messages.

    Raises:
      DataError: no image, or a broken one.

    Source: caffe/tools/extra/resize_and_crop_images.py, PILResizeCrop. Differs: Caffe
    thins images out too far, so that a square of 800 x 800 pixels of 1100 x 800 becomes
    one of 200 x 200 instead of 256 x 256; what a JPEG file cannot hold, such as a
    palette or transparency, becomes R, G, B.
    """
    try:
        picture: Image.Image = Image.open(io.BytesIO(content))
        picture.load()
        factor = 1
        width, height = picture.size
        while min(width, height) // factor > 2 * side:
            factor *= 2
        if factor > 1:
            size = (width // factor, height // factor)
            picture.thumbnail(size, Image.Resampling.NEAREST)
        picture = picture.crop(_central_square(*picture.size, side))
        if picture.mode not in ("L", "RGB", "CMYK"):
            picture = picture.convert("RGB")
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=75)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(describe(where, f"cannot be decoded: {error}")) from None
    return out.getvalue()


def _central_square(width: int, height: int, side: int) -> tuple[int, int, int, int]:
    x_ratio, y_ratio = width / side, height / side
    if y_ratio > x_ratio:
        half = side * x_ratio / 2
        return 0, int(height // 2 - half), width, int(height // 2 + half)
    half = side * y_ratio / 2
    return int(width // 2 - half), 0, int(width // 2 + half), height


def _crop_with_opencv(path: str, side: int) -> bytes:
    content = read_content(path, DataError)
    if image.is_truncated_jpeg(content):
        raise DataError(describe(path, "is a truncated JPEG"))
    pixels = image.decode_file(content, "color", path)
    square = crop_square(pixels, side, path)
    extension = os.path.splitext(path)[1]
    try:
        done, encoded = cv2.imencode(extension, square)
    except cv2.error:
        done = False
    if not done:
        problem = f'its extension "{extension}" is no type that OpenCV writes'
        raise DataError(describe(path, problem, ".jpg, .png"))
    return encoded.tobytes()


def _write(path: str, content: bytes, overwrite: bool) -> None:
    """As cli.write_file, without waiting for the disk at each of a million images."""
    temporary = f"{path}.partial-{secrets.token_hex(4)}"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
        cli.refuse_existing(path, overwrite)
        os.replace(temporary, path)
    finally:
        if os.path.lexists(temporary):
            os.unlink(temporary)


def _map(
    make: functools.partial[str], paths: Sequence[str], processes: int
) -> Iterator[str]:
    if processes == 1 or len(paths) == 1:
        yield from map(make, paths)
        return
    workers = min(processes, -(-len(paths) // _CHUNK))
    # Not forked: threads of libraries do not survive that.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context)
    try:
        yield from pool.map(make, paths, chunksize=_CHUNK)
    finally:
        pool.shutdown(cancel_futures=True)


def _check_flags(flags: Namespace) -> None:
    tool = "resize_and_crop_images"
    for name, what in (
        ("input", "a list of image files"),
        ("input_folder", "the folder of the images"),
        ("output_folder", "another folder"),
    ):
        if not getattr(flags, name):
            raise ConfigError(describe(tool, f"--{name} is not given", what))
    for name in ("output_side_length", "num_clients"):
        if getattr(flags, name) < 1:
            problem = f"--{name} is {getattr(flags, name)}"
            raise ConfigError(describe(tool, problem, "1 or more"))
    if flags.image_lib not in ("opencv", "pil"):
        problem = f'--image_lib is "{flags.image_lib}"'
        raise ConfigError(describe(tool, problem, "opencv, pil"))
    if not os.path.isdir(flags.input_folder):
        raise ConfigError(describe(flags.input_folder, "is no folder"))
    if os.path.realpath(flags.input_folder) == os.path.realpath(flags.output_folder):
        problem = "is the input_folder too, whose images would be lost"
        raise ConfigError(describe(flags.output_folder, problem, "another folder"))


if __name__ == "__main__":
    cli.run(main)
