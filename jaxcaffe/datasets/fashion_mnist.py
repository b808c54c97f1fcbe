"""Fashion-MNIST as databases, from its idx files.

Follows examples/mnist/create_mnist.sh of Caffe.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxcaffe.datasets.idx import run_maker
from jaxcaffe.tools import cli

DESCRIPTION = """\
Makes OUT_DIR/fashion_mnist_train_lmdb (60,000 gray images of 28x28 pixels) and
OUT_DIR/fashion_mnist_test_lmdb (10,000) from the files in IDX_DIR:
train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and
t10k-labels-idx1-ubyte.gz. Debian's package dataset-fashion-mnist puts them into
/usr/share/datasets/fashion-mnist; their home is
https://github.com/zalandoresearch/fashion-mnist. Neither database may exist."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; as `idx.run_maker`."""
    return run_maker(argv, "fashion_mnist", DESCRIPTION)


if __name__ == "__main__":
    cli.run(main)
