"""Makes a database of pairs: `convert_mnist_siamese_data IMAGES LABELS DB`.

Follows examples/siamese/convert_mnist_siamese_data.cpp of Caffe.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np

from jaxcaffe.data import database
from jaxcaffe.data.datum import write_datum
from jaxcaffe.datasets.idx import read_pair
from jaxcaffe.errors import DataError, describe
from jaxcaffe.progress import show_progress
from jaxcaffe.tools import cli

DESCRIPTION = """\
Stores pairs of images, drawn at random, in the new database DB, for a siamese net: as
many pairs as there are images, each a record of two channels with the label 1 where
both show the same digit and 0 elsewhere. A Slice layer parts them again.

  convert_mnist_siamese_data train-images-idx3-ubyte train-labels-idx1-ubyte \\
    mnist_siamese_train_leveldb"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: the arguments without the program's name; None takes the process's.

    Returns:
      0.

    Raises:
      CaffeError: wrong flags, files missing or broken, no images, DB exists.
    """
    parser = cli.Parser("convert_mnist_siamese_data", DESCRIPTION)
    parser.argument("IMAGES", "idx file of images, as train-images-idx3-ubyte")
    parser.argument("LABELS", "idx file of labels, as train-labels-idx1-ubyte")
    parser.argument("DB", "the database to make")
    parser.flag("backend", "leveldb", "kind of database", choices=database.BACKENDS)
    parser.flag("seed", 0, "of the draw: the same seed gives the same pairs")
    flags = parser.parse(argv)
    images, labels = read_pair(flags.IMAGES, flags.LABELS)
    if not len(labels):
        raise DataError(describe(flags.IMAGES, "holds no images", "one or more"))
    with (
        database.create_database(flags.DB, flags.backend) as put,
        show_progress(
            "Drawing pairs", len(labels), unit="pairs", every=10000
        ) as advance,
    ):
        cli.say(f"A total of {len(labels)} items.")
        cli.say(f"Rows: {images.shape[1]} Cols: {images.shape[2]}")
        for index, value in enumerate(draw_pairs(images, labels, flags.seed)):
            put(b"%08d" % index, value)
            advance(1)
    return 0


def draw_pairs(images: np.ndarray, labels: np.ndarray, seed: int) -> Iterator[bytes]:
    """Yields as many serialised Datums as there are images.

    Both images of a pair are drawn from all, each as likely as any other; a pair may
    hold one image twice.

    Args:
      images: (N, H, W) uint8, N at least 1.
      labels: (N,) uint8.
      seed: of the draw.

    Yields:
      A Datum of (2, H, W) bytes; label 1 if both images have the same label, else 0.

    Source: caffe/examples/siamese/convert_mnist_siamese_data.cpp, convert_dataset.
    Differs: Caffe draws anew at each run, and writes no LMDB; a file that is shorter or
    longer than its header says is refused.
    """
    generator = random.Random(seed)
    for _ in range(len(labels)):
        i, j = generator.randrange(len(labels)), generator.randrange(len(labels))
        same = int(labels[i] == labels[j])
        yield write_datum(images[[i, j]], same, say_encoded=False)


if __name__ == "__main__":
    cli.run(main)
