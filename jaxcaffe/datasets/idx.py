"""Files of the MNIST family (idx), to arrays and to databases.

Follows examples/mnist/convert_mnist_data.cpp of Caffe.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from jaxcaffe.data.database import BACKENDS, Put, check_new, create_database
from jaxcaffe.data.datum import write_datum
from jaxcaffe.errors import ConfigError, DataError, describe, plural
from jaxcaffe.progress import show_progress
from jaxcaffe.proto.files import read_content
from jaxcaffe.tools import cli

_GZIP_START = b"\x1f\x8b"
_UINT8 = 8  # the type byte of an idx file

_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def run_maker(argv: Sequence[str] | None, name: str, description: str) -> int:
    """Runs the command `python -m jaxcaffe.datasets.NAME IDX_DIR OUT_DIR`.

    Args:
      argv: the arguments without the program's name; None takes the process's.
      name: of the data set; begins the names of the databases.
      description: for --help.

    Returns:
      0.

    Raises:
      CaffeError: wrong flags, files missing or broken, databases that exist.
    """
    parser = cli.Parser(name, description)
    parser.argument("IDX_DIR", "the folder with the four idx files, as .gz or unpacked")
    parser.argument("OUT_DIR", "the folder for the databases; made if missing")
    parser.flag("backend", "lmdb", "kind of database", choices=BACKENDS)
    flags = parser.parse(argv)
    for path in convert_idx(flags.IDX_DIR, flags.OUT_DIR, name, flags.backend):
        cli.say(f"Wrote {path}")
    return 0


def convert_idx(
    idx_dir: str, out_dir: str, name: str, backend: str = "lmdb"
) -> tuple[str, str]:
    """Makes the databases OUT_DIR/NAME_train_BACKEND and OUT_DIR/NAME_test_BACKEND.

    Records are Datums of (1, H, W) gray pixels and a label, in the order of the files;
    keys are indices in eight digits. Neither database appears before both are written.

    Args:
      idx_dir: folder with train-images-idx3-ubyte, train-labels-idx1-ubyte,
        t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, with or without .gz.
      out_dir: folder for the databases; made if missing.
      name: begins the names of the databases.
      backend: "lmdb" or "leveldb".

    Returns:
      The paths of both databases.

    Raises:
      ConfigError: a database exists or cannot be written.
      DataError: a file is missing or broken, or images and labels differ in number.

    Source: caffe/examples/mnist/convert_mnist_data.cpp, convert_dataset. Differs: both
    parts at once; gzip is undone.
    """
    train, test = (
        os.path.join(out_dir, f"{name}_{split}_{backend}") for split in _FILES
    )
    parts = [
        read_pair(*(_find(idx_dir, name) for name in names))
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
    total = sum(len(labels) for _, labels in parts)
    with (
        show_progress(f"Converting {name}", total, unit="images") as advance,
        create_database(train, backend) as put_train,
        create_database(test, backend) as put_test,
    ):
        for put, (images, labels) in zip((put_train, put_test), parts, strict=True):
            put_images(put, images, labels, advance)
    return train, test


def put_images(
    put: Put, images: np.ndarray, labels: np.ndarray, advance: Callable[[int], None]
) -> None:
    """Writes records as Caffe's convert_mnist_data does, byte for byte.

    Args:
      put: of an open database.
      images: (N, H, W) uint8.
      labels: (N,) uint8.
      advance: is called with the number of records just written.
    """
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        value = write_datum(image[np.newaxis], int(label), say_encoded=False)
        put(b"%08d" % i, value)
        advance(1)


def read_pair(images_path: str, labels_path: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels of one part of the data set.

    Args:
      images_path: an idx file with three axes.
      labels_path: an idx file with one.

    Returns:
      (N, H, W) uint8, 0 to 255; and (N,) uint8.

    Raises:
      DataError: a file is missing or broken, has other axes, or the counts differ.
    """
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise DataError(
            describe(
                images_path,
                f"holds {plural(len(images), 'image')}, but {labels_path} holds "
                f"{plural(len(labels), 'label')}",
            )
        )
    return images, labels


def read_idx(path: str, axes: int) -> np.ndarray:
    """Returns the array of unsigned bytes that an idx file holds.

    An idx file begins with two zero bytes, the type (8: unsigned bytes) and the number
    of axes; each axis' length follows in four bytes, the highest first; then come the
    values, the last axis fastest.

    Args:
      path: the file, gzip-compressed or not.
      axes: how many axes it must have.

    Returns:
      A uint8 array with that many axes, read-only.

    Raises:
      DataError: the file is missing, corrupt, of another type or another size.

    Source: http://yann.lecun.com/exdb/mnist/, "the IDX file format";
    caffe/examples/mnist/convert_mnist_data.cpp, where the magic numbers are 2051 for
    images and 2049 for labels. Differs: the size of the file is checked.
    """
    content = read_content(path, DataError)
    if content.startswith(_GZIP_START):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(describe(path, f"is broken gzip: {error}")) from None
    magic = bytes((0, 0, _UINT8, axes))
    if content[:4] != magic:
        raise DataError(
            describe(
                path,
                f"begins with the bytes {content[:4].hex(' ') or 'of an empty file'}",
                f"{magic.hex(' ')}, an idx file of unsigned bytes with {axes} axes",
            )
        )
    start = 4 + 4 * axes
    shape = tuple(int.from_bytes(content[k : k + 4], "big") for k in range(4, start, 4))
    if len(content) != start + math.prod(shape):
        raise DataError(
            describe(
                path,
                f"has {plural(len(content), 'byte')}, but its header, for the "
                f"shape {shape}, "
                f"tells of {start + math.prod(shape)}",
            )
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _find(folder: str, name: str) -> str:
    """Returns the path of the file, compressed or not, under either spelling."""
    # Some archives unpack to names with a dot: train-images.idx3-ubyte.
    for spelling in (name, name.replace("-idx", ".idx")):
        for suffix in ("", ".gz"):
            path = os.path.join(folder, spelling + suffix)
            if os.path.isfile(path):
                return path
    raise DataError(describe(folder, f"holds no {name}.gz", f"{name}, {name}.gz"))
