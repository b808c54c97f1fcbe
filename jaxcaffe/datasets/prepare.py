"""Data sets that a config can have made before its first run.

Stands in for the get_*.sh and create_*.sh scripts of Caffe's examples.
"""

from __future__ import annotations

from collections.abc import Callable


def prepare(name: str) -> None:
    """Makes the data set that `config.prepare` names, as far as it is not there yet.

    Args:
      name: one of PREPARE, or "" for none.

    Raises:
      CaffeError: something cannot be written, or a package is missing.
    """
    if name:
        PREPARE[name]()


def _digits() -> None:
    # Imported here: most runs prepare nothing, and OpenCV takes a while to load.
    from jaxcaffe.datasets.digits import prepare_digits

    prepare_digits("data/digits")


PREPARE: dict[str, Callable[[], None]] = {"digits": _digits}
"""Name -> what makes the data; config.CHOICES lists the same names."""
