"""CIFAR-10 as databases, from the binary version of its files.

Follows examples/cifar10/convert_cifar_data.cpp of Caffe.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from jaxcaffe.data.database import BACKENDS, check_new, create_database
from jaxcaffe.data.datum import write_datum
from jaxcaffe.errors import ConfigError, DataError, describe, plural
from jaxcaffe.progress import show_progress
from jaxcaffe.proto.files import read_content
from jaxcaffe.tools import cli

DESCRIPTION = """\
Makes OUT_DIR/cifar10_train_lmdb (50,000 images of 32x32 pixels) and
OUT_DIR/cifar10_test_lmdb (10,000) from data_batch_1.bin to data_batch_5.bin and
test_batch.bin in BIN_DIR, the "binary version" of
https://www.cs.toronto.edu/~kriz/cifar.html. Neither database may exist.

Planes keep the order of the files: red, green, blue. Databases made by
convert_imageset hold blue, green, red, so nets trained on the one kind do not fit the
other. The mean that the nets subtract is made afterwards:

  python -m jaxcaffe.tools.compute_image_mean OUT_DIR/cifar10_train_lmdb \\
    OUT_DIR/mean.binaryproto"""

SHAPE = (3, 32, 32)
CLASSES = 10
RECORDS_PER_FILE = 10_000

_FILES = {
    "train": tuple(f"data_batch_{k}.bin" for k in range(1, 6)),
    "test": ("test_batch.bin",),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m jaxcaffe.datasets.cifar10 BIN_DIR OUT_DIR`.

    Args:
      argv: the arguments without the program's name; None takes the process's.

    Returns:
      0.

    Raises:
      CaffeError: wrong flags, files missing or broken, databases that exist.
    """
    parser = cli.Parser("cifar10", DESCRIPTION)
    parser.argument("BIN_DIR", "the folder with the six .bin files")
    parser.argument("OUT_DIR", "the folder for the databases; made if missing")
    parser.flag("backend", "lmdb", "kind of database", choices=BACKENDS)
    flags = parser.parse(argv)
    for path in convert_cifar10(flags.BIN_DIR, flags.OUT_DIR, flags.backend):
        cli.say(f"Wrote {path}")
    return 0


def convert_cifar10(
    bin_dir: str,
    out_dir: str,
    backend: str = "lmdb",
    records_per_file: int = RECORDS_PER_FILE,
) -> tuple[str, str]:
    """Makes OUT_DIR/cifar10_train_BACKEND and OUT_DIR/cifar10_test_BACKEND.

    Records are Datums of (3, 32, 32) pixels, planes red, green, blue, and a label; keys
    are indices in five digits. A database appears only when it is whole; when the
    train database cannot be finished, the test database may stand there already.

    Args:
      bin_dir: folder with data_batch_1.bin to data_batch_5.bin and test_batch.bin.
      out_dir: folder for the databases; made if missing.
      backend: "lmdb" or "leveldb".
      records_per_file: images that each file must hold.

    Returns:
      The paths of both databases.

    Raises:
      ConfigError: a database exists or cannot be written.
      DataError: a file is missing or not as it should be.

    Source: caffe/examples/cifar10/convert_cifar_data.cpp, convert_dataset. Differs: the
    size of each file and the labels are checked; OUT_DIR is made.
    """
    train, test = (
        os.path.join(out_dir, f"cifar10_{split}_{backend}") for split in _FILES
    )
    parts = [
        [read_batch(os.path.join(bin_dir, name), records_per_file) for name in names]
        for names in _FILES.values()
    ]
    try:
        os.makedirs(out_dir, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            describe(out_dir, f"cannot be made: {error.strerror}")
        ) from None
    check_new(train)
    check_new(test)
    total = sum(len(labels) for batches in parts for _, labels in batches)
    with (
        show_progress("Converting CIFAR-10", total, unit="images") as advance,
        create_database(train, backend) as put_train,
        create_database(test, backend) as put_test,
    ):
        for put, batches in zip((put_train, put_test), parts, strict=True):
            index = 0
            for images, labels in batches:
                for image, label in zip(images, labels, strict=True):
                    value = write_datum(image, int(label), say_encoded=False)
                    put(b"%05d" % index, value)
                    index += 1
                    advance(1)
    return train, test


def read_batch(
    path: str, records: int = RECORDS_PER_FILE
) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels of one .bin file.

    A record is one byte of label and 3072 of pixels: 32 rows of 32 red ones, then the
    green, then the blue.

    Args:
      path: the file.
      records: how many it must hold.

    Returns:
      (N, 3, 32, 32) uint8, 0 to 255, planes red, green, blue; and (N,) uint8, 0 to 9.

    Raises:
      DataError: the file is missing, has another size, or labels above 9.
    """
    content = read_content(path, DataError)
    size = 1 + SHAPE[0] * SHAPE[1] * SHAPE[2]
    if len(content) != records * size:
        raise DataError(
            describe(
                path,
                f"has {plural(len(content), 'byte')}",
                f"{records * size}, which are {records} records of {size} bytes",
            )
        )
    table = np.frombuffer(content, np.uint8).reshape(records, size)
    labels = table[:, 0]
    if labels.max(initial=0) >= CLASSES:
        record = int(np.argmax(labels >= CLASSES))
        raise DataError(
            describe(
                path,
                f"record {record} has the label {labels[record]}",
                "0 to 9, as in the files of CIFAR-10's binary version",
            )
        )
    return table[:, 1:].reshape(records, *SHAPE), labels


if __name__ == "__main__":
    cli.run(main)
