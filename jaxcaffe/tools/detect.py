"""Classifies windows of images, as R-CNN does: `detect WINDOWS.csv OUT.h5`.

Follows python/detect.py of Caffe.
"""

from __future__ import annotations

import csv
import io
import os
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import h5py
import jax
import numpy as np

from jaxcaffe.errors import ConfigError, DataError, describe, plural
from jaxcaffe.pycaffe.detector import Detector
from jaxcaffe.tools import cli, net_images
from jaxcaffe.tools.mode import find_device

DESCRIPTION = """\
Cuts windows out of images, runs a net on each, and stores its scores.

  detect windows.csv scores.h5 --model_def=deploy.prototxt \\
    --pretrained_model=rcnn.caffemodel --mean_file=imagenet_mean.binaryproto

WINDOWS.csv has a first line with the names filename, ymin, xmin, ymax and xmax in any
order, then a line for each window, in pixels. With a .txt file, which lists image files
alone, Selective Search proposes the windows; that needs MATLAB and the module
selective_search_ijcv_with_python.

OUT.csv holds a line for each window: filename, ymin, xmin, ymax, xmax, class0, class1,
and so on. OUT.h5 holds data sets: filename, window (N, 4) and prediction (N, ...)."""

CROP_MODES = ("list", "selective_search")
COORDINATES = ("ymin", "xmin", "ymax", "xmax")

_MOST_PIXELS = 1 << 31

Windows = dict[str, list[list[int]]]
"""Image file -> its windows, each in the order of COORDINATES."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: the arguments without the program's name; None takes the process's.

    Returns:
      0.

    Raises:
      CaffeError: wrong flags; a net, weights, mean, list or image that is missing,
        broken or does not fit the others; OUT exists or cannot be written.

    Source: caffe/python/detect.py. Differs: no default files; a .csv file is a list of
    windows unless --crop_mode says otherwise; the HDF5 file is plain, not pandas'; the
    CSV file, which Caffe's script fails to write, is written.
    """
    parser = cli.Parser("detect", DESCRIPTION)
    parser.argument("INPUT", "windows, a .csv file, or image files, a .txt")
    parser.argument("OUT", "the .h5 or .csv file to make")
    net_images.add_net_flags(parser)
    parser.flag(
        "crop_mode",
        "",
        "list for windows of a .csv, selective_search for the images of a .txt",
        choices=CROP_MODES,
    )
    parser.flag("context_pad", 16, "pixels of the input that show what is around")
    parser.flag("overwrite", False, "replace OUT if it exists")
    flags = parser.parse(argv)
    net_images.check_net_flags(flags, "detect")
    if flags.context_pad < 0:
        raise ConfigError(describe("--context_pad", f"is {flags.context_pad}", "0 up"))
    kind = os.path.splitext(flags.OUT)[1].lower()
    if kind not in (".h5", ".hdf5", ".csv"):
        raise ConfigError(describe(flags.OUT, f'ends in "{kind}"', ".h5, .csv"))
    is_list, windows = _read_input(flags)
    mean = net_images.read_mean(flags.mean_file)
    if mean is not None and mean.ndim == 3:
        mean = mean.mean(axis=(1, 2))  # windows lie anywhere in an image
    device = find_device("detect", "GPU" if flags.gpu else None, None)
    with jax.default_device(device):
        detector = Detector(
            flags.model_def,
            flags.pretrained_model,
            mean=mean,
            input_scale=flags.input_scale,
            raw_scale=flags.raw_scale,
            channel_swap=net_images.read_channel_swap(flags),
            context_pad=flags.context_pad,
        )
        # After all that is read at once, and before the work.
        cli.refuse_existing(flags.OUT, flags.overwrite)
        start = time.perf_counter()
        found = detect(detector, windows) if is_list else []
        if not is_list:
            found = detector.detect_selective_search(list(windows))
    seconds = time.perf_counter() - start
    print(f"Processed {plural(len(found), 'window')} in {seconds:.3f} s.")
    if not found:
        raise DataError(describe(flags.INPUT, "no window was found in its images"))
    content = write_csv(found) if kind == ".csv" else write_hdf5(found)
    cli.write_file(flags.OUT, content, flags.overwrite)
    print(f"Saved to {flags.OUT}")
    return 0


def detect(detector: Detector, windows: Windows) -> list[dict[str, Any]]:
    """Returns the detector's dicts for all windows, image after image."""
    found = []
    for pair in windows.items():  # one at a time: an image may have thousands
        found += detector.detect_windows([pair])
    return found


def read_windows(path: str) -> Windows:
    """Reads a table of windows.

    Raises:
      DataError: the file is missing or empty, lacks a column, or has a line that is no
        window.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            lines = [(reader.line_num, line) for line in reader]
    except OSError as error:
        raise DataError(describe(path, f"cannot be read: {error.strerror}")) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(describe(path, f"is no CSV file: {error}")) from None
    missing = [name for name in ("filename", *COORDINATES) if name not in columns]
    if missing:
        problem = f"its first line names no column {', '.join(missing)}"
        raise DataError(describe(path, problem, "filename,ymin,xmin,ymax,xmax"))
    windows: Windows = {}
    for number, line in lines:
        try:
            window = [int(float(line[name])) for name in COORDINATES]
            if max(map(abs, window)) >= _MOST_PIXELS:
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            problem = f"{[line[name] for name in COORDINATES]} is no window"
            accepted = "four numbers of pixels: ymin, xmin, ymax, xmax"
            raise DataError(describe(f"{path}:{number}", problem, accepted)) from None
        windows.setdefault(line["filename"], []).append(window)
    if not windows:
        raise DataError(describe(path, "holds no windows", "a line for each"))
    return windows


def write_csv(found: Sequence[dict[str, Any]]) -> bytes:
    """Returns detections as a table, a line for each window."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    classes = range(np.size(found[0]["prediction"]))
    writer.writerow(["filename", *COORDINATES, *(f"class{k}" for k in classes)])
    for one in found:
        scores = np.ravel(one["prediction"])
        writer.writerow([one["filename"], *map(int, one["window"]), *scores.tolist()])
    return out.getvalue().encode()


def write_hdf5(found: Sequence[dict[str, Any]]) -> bytes:
    """Returns detections as an HDF5 file."""
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        names = [one["filename"] for one in found]
        file.create_dataset("filename", data=names, dtype=h5py.string_dtype())
        file["window"] = np.array([one["window"] for one in found], np.int64)
        file["prediction"] = np.stack([one["prediction"] for one in found])
    return out.getvalue()


def _read_input(flags: Namespace) -> tuple[bool, Windows]:
    """Returns whether windows are given, and the images with those."""
    kind = os.path.splitext(flags.INPUT)[1].lower()
    if kind not in (".csv", ".txt"):
        raise ConfigError(describe(flags.INPUT, f'ends in "{kind}"', ".csv, .txt"))
    mode = flags.crop_mode or CROP_MODES[kind == ".txt"]
    if (mode == "list") != (kind == ".csv"):
        problem = f"is {mode} for the file {flags.INPUT}"
        accepted = "list for a .csv, selective_search for a .txt"
        raise ConfigError(describe("--crop_mode", problem, accepted))
    if mode == "list":
        return True, read_windows(flags.INPUT)
    try:
        with open(flags.INPUT, encoding="utf-8") as file:
            names = [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(describe(flags.INPUT, f"cannot be read: {error}")) from None
    if not names:
        raise DataError(describe(flags.INPUT, "names no images"))
    return False, {name: [] for name in names}


if __name__ == "__main__":
    cli.run(main)
