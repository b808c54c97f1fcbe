"""Handwritten digits of scikit-learn as PNG files and lists, and as databases.

Stands in for data/mnist/get_mnist.sh and examples/mnist/create_mnist.sh of Caffe, with
nothing to download.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
from collections.abc import Sequence

import cv2
import numpy as np

from jaxcaffe.data.database import check_new
from jaxcaffe.errors import ConfigError, describe
from jaxcaffe.progress import show_progress
from jaxcaffe.tools import cli, compute_image_mean, convert_imageset

DESCRIPTION = """\
Writes the 1,797 digits that come with scikit-learn, 8x8 gray pixels each, to
OUT_DIR/LABEL/INDEX.png, with the lists OUT_DIR/train.txt (1437 of them, in random
order) and OUT_DIR/test.txt (360). Every class has the same share of both. OUT_DIR must
not exist, and appears only when everything is written. Then, for a database:

  python -m jaxcaffe.tools.convert_imageset --gray OUT_DIR/ OUT_DIR/train.txt DB"""

TEST_COUNT = 360
LEVELS = 16
"""The brightest of the data set's pixels; the darkest are 0."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m jaxcaffe.datasets.digits OUT_DIR`.

    Args:
      argv: the arguments without the program's name; None takes the process's.

    Returns:
      0.

    Raises:
      ConfigError: wrong flags, OUT_DIR exists or cannot be made, no scikit-learn.
    """
    parser = cli.Parser("digits", DESCRIPTION)
    parser.argument("OUT_DIR", "the folder to make")
    parser.flag("seed", 0, "which images go to test.txt, and the order of train.txt")
    flags = parser.parse(argv)
    write_digits(flags.OUT_DIR, flags.seed)
    cli.say(f"Wrote images, train.txt and test.txt to {flags.OUT_DIR}")
    return 0


def prepare_digits(folder: str) -> None:
    """Makes what prototxt/lenet_digits reads, as far as it is not there yet.

    Afterwards `folder` holds images/, digits_train_lmdb, digits_test_lmdb and
    mean.binaryproto. Each appears complete or not at all, so after an interruption a
    second call goes on where the first one stopped.

    Args:
      folder: "data/digits" for the prototxt as it stands; made if missing.

    Raises:
      CaffeError: something cannot be written, or scikit-learn is missing.
    """
    images = os.path.join(folder, "images")
    mean = os.path.join(folder, "mean.binaryproto")
    databases = {
        split: os.path.join(folder, f"digits_{split}_lmdb")
        for split in ("train", "test")
    }
    if not os.path.exists(images):
        write_digits(images)
    for split, path in databases.items():
        if not os.path.exists(path):
            file_list = os.path.join(images, f"{split}.txt")
            status = convert_imageset.main(["--gray", f"{images}/", file_list, path])
            if status:
                raise ConfigError(
                    describe(
                        images,
                        "holds files that are no images",
                        "the folder as it was made; delete it to have it made again",
                    )
                )
    if not os.path.exists(mean):
        compute_image_mean.main([databases["train"], mean])


def write_digits(out_dir: str, seed: int = 0) -> None:
    """Writes all digits and both lists to a new folder.

    Args:
      out_dir: the folder to make, parents included.
      seed: of the split and of the order of train.txt.

    Raises:
      ConfigError: `out_dir` exists or cannot be made; scikit-learn is missing.
    """
    pixels, labels = load_digits()
    train, test = split_records(labels.tolist(), TEST_COUNT, seed)
    out_dir = out_dir.rstrip("/") or out_dir
    partial = f"{out_dir}.partial-{secrets.token_hex(4)}"
    try:
        os.makedirs(os.path.dirname(out_dir) or ".", exist_ok=True)
        check_new(out_dir)
        for label in sorted(set(labels.tolist())):
            os.makedirs(os.path.join(partial, str(label)))
        paths = [f"{label}/{i:04d}.png" for i, label in enumerate(labels)]
        with show_progress("Writing digits", len(paths)) as advance:
            for image, path in zip(pixels, paths, strict=True):
                done, content = cv2.imencode(".png", image)
                assert done
                with open(os.path.join(partial, path), "xb") as file:
                    file.write(content.tobytes())
                advance(1)
        for name, records in (("train.txt", train), ("test.txt", test)):
            with open(os.path.join(partial, name), "x", encoding="ascii") as file:
                file.writelines(f"{paths[i]} {labels[i]}\n" for i in records)
        check_new(out_dir)
        os.rename(partial, out_dir)
    except OSError as error:
        raise ConfigError(
            describe(out_dir, f"cannot be made: {error.strerror}")
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Returns all digits of scikit-learn with their labels.

    Returns:
      (1797, 8, 8) uint8, 0 to 255, strokes bright; and (1797,) integers, 0 to 9.

    Raises:
      ConfigError: scikit-learn is missing.
    """
    try:
        from sklearn import datasets
    except ImportError:
        raise ConfigError(
            "The digits come with the package scikit-learn, which is not installed. "
            "Accepted: pip install 'jaxcaffe[digits]'."
        ) from None
    bunch = datasets.load_digits()
    return np.round(bunch.images * (255 / LEVELS)).astype(np.uint8), bunch.target


def split_records(
    labels: Sequence[int], test_count: int, seed: int
) -> tuple[list[int], list[int]]:
    """Divides records so that every label has its share of both parts.

    A label with n of N records gets n * test_count / N test records, rounded down; the
    records then missing go to the labels with the largest remainders, the smaller label
    first where remainders are equal.

    Args:
      labels: one per record.
      test_count: records in the second part, 0 to len(labels).
      seed: which records those are, and the order of the first part.

    Returns:
      Indices for training in random order, and for testing in rising order.
    """
    generator = random.Random(seed)
    members: dict[int, list[int]] = {label: [] for label in sorted(set(labels))}
    for i, label in enumerate(labels):
        members[label].append(i)
    shares = {
        label: divmod(len(records) * test_count, len(labels))
        for label, records in members.items()
    }
    missing = test_count - sum(share for share, _ in shares.values())
    by_remainder = sorted(shares, key=lambda label: -shares[label][1])
    topped_up = set(by_remainder[:missing])
    train: list[int] = []
    test: list[int] = []
    for label, records in members.items():
        generator.shuffle(records)
        count = shares[label][0] + (label in topped_up)
        test += records[:count]
        train += records[count:]
    generator.shuffle(train)
    return train, sorted(test)


if __name__ == "__main__":
    cli.run(main)
