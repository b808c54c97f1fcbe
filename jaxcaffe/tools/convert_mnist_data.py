"""Makes a database of one part of MNIST: `convert_mnist_data IMAGES LABELS DB`.

Follows examples/mnist/convert_mnist_data.cpp of Caffe.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxcaffe.data import database
from jaxcaffe.datasets.idx import put_images, read_pair
from jaxcaffe.progress import show_progress
from jaxcaffe.tools import cli

DESCRIPTION = """\
Stores the images of the idx file IMAGES with the labels of the idx file LABELS in the
new database DB, record for record as Caffe's tool does. Both files may be compressed
with gzip. The files are at http://yann.lecun.com/exdb/mnist/; `python -m
jaxcaffe.datasets.mnist` converts all four at once.

  convert_mnist_data train-images-idx3-ubyte train-labels-idx1-ubyte mnist_train_lmdb"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: the arguments without the program's name; None takes the process's.

    Returns:
      0.

    Raises:
      CaffeError: wrong flags, files missing or broken, DB exists.

    Source: caffe/examples/mnist/convert_mnist_data.cpp, convert_dataset. Differs: gzip
    is undone; a file shorter or longer than its header says is refused; DB appears
    when it is whole; wrong arguments give status 1.
    """
    parser = cli.Parser("convert_mnist_data", DESCRIPTION)
    parser.argument("IMAGES", "idx file of images, as train-images-idx3-ubyte")
    parser.argument("LABELS", "idx file of labels, as train-labels-idx1-ubyte")
    parser.argument("DB", "the database to make")
    parser.flag("backend", "lmdb", "kind of database", choices=database.BACKENDS)
    flags = parser.parse(argv)
    images, labels = read_pair(flags.IMAGES, flags.LABELS)
    with (
        database.create_database(flags.DB, flags.backend) as put,
        show_progress("Converting images", len(labels), every=10000) as advance,
    ):
        cli.say(f"A total of {len(labels)} items.")
        cli.say(f"Rows: {images.shape[1]} Cols: {images.shape[2]}")
        put_images(put, images, labels, advance)
    return 0


if __name__ == "__main__":
    cli.run(main)
