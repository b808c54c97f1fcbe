"""Runs convert_imageset, compute_image_mean or bare OpenCV, as tools_speed.py asks."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import sys

import cv2
from turns import serve

from jaxcaffe.tools import compute_image_mean, convert_imageset


def main(task: dict) -> None:
    """Serves what `task` names; a step is one image."""
    {"convert": _convert, "opencv": _opencv, "mean": _mean}[task["kind"]](task)


def _convert(task: dict) -> None:
    database = os.path.join(task["folder"], "converted")

    def run(steps: int) -> None:
        listed = os.path.join(task["folder"], "part")
        with open(task["list"]) as file, open(listed, "w") as part:
            part.writelines(file.readlines()[:steps])
        shutil.rmtree(database, ignore_errors=True)
        size = str(task["size"])
        _quietly(
            convert_imageset.main,
            ["--resize_height", size, "--resize_width", size, "", listed, database],
        )

    run(20)
    serve(run)


def _opencv(task: dict) -> None:
    with open(task["list"]) as file:
        paths = [line.rsplit(" ", 1)[0] for line in file]
    processes = task["threads"]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:

        def run(steps: int) -> None:
            shares = [paths[i:steps:processes] for i in range(processes)]
            pool.starmap(_read_all, [(share, task["size"]) for share in shares])

        run(20)
        serve(run)


def _read_all(paths: list[str], size: int) -> None:
    cv2.setNumThreads(1)
    for path in paths:
        cv2.resize(cv2.imread(path), (size, size))


def _mean(task: dict) -> None:
    def run(steps: int) -> None:
        _quietly(compute_image_mean.main, [task["database"]])

    run(1)
    serve(run)


def _quietly(call, argv: list[str]) -> None:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        assert call(argv) == 0


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
