"""Makes the databases of CIFAR-10: `convert_cifar_data IN_DIR OUT_DIR lmdb`.

Follows examples/cifar10/convert_cifar_data.cpp of Caffe.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxcaffe.data.database import BACKENDS
from jaxcaffe.datasets.cifar10 import convert_cifar10
from jaxcaffe.errors import ConfigError, describe, nearest
from jaxcaffe.tools import cli

DESCRIPTION = """\
Makes OUT_DIR/cifar10_train_BACKEND and OUT_DIR/cifar10_test_BACKEND from the files
data_batch_1.bin to data_batch_5.bin and test_batch.bin in IN_DIR, record for record as
Caffe's tool does: planes red, green, blue. The files are the "binary version" of
https://www.cs.toronto.edu/~kriz/cifar.html.

  convert_cifar_data cifar-10-batches-bin data/cifar10 lmdb"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: the arguments without the program's name; None takes the process's.

    Returns:
      0.

    Raises:
      CaffeError: wrong arguments, files missing or broken, databases that exist.

    Source: caffe/examples/cifar10/convert_cifar_data.cpp. Differs: see
    datasets.cifar10.convert_cifar10; BACKEND may be left out.
    """
    parser = cli.Parser("convert_cifar_data", DESCRIPTION)
    parser.argument("IN_DIR", "the folder with the six .bin files")
    parser.argument("OUT_DIR", "the folder for the databases; made if missing")
    parser.argument("BACKEND", "lmdb, the default, or leveldb", nargs="?")
    flags = parser.parse(argv)
    backend = "lmdb" if flags.BACKEND is None else flags.BACKEND
    if backend not in BACKENDS:
        problem = f'"{backend}" is no kind of database'
        raise ConfigError(
            describe("convert_cifar_data", problem, nearest(backend, BACKENDS))
        )
    for path in convert_cifar10(flags.IN_DIR, flags.OUT_DIR, backend):
        cli.say(f"Wrote {path}")
    return 0


if __name__ == "__main__":
    cli.run(main)
