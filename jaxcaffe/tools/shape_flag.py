"""The flag --shape: the size of one record, for commands whose data may be elsewhere.

Stands in for the Input layers of Caffe's deploy.prototxt files.
"""

from __future__ import annotations

from argparse import Namespace

from jaxcaffe.errors import ConfigError, describe
from jaxcaffe.spec import Shape
from jaxcaffe.tools import cli


def add_shape_flag(parser: cli.Parser, help: str) -> None:
    """Declares --shape."""
    parser.flag("shape", "", f"C,H,W of one record of data layers, as stored, {help}")


def read_shape(flags: Namespace) -> Shape | None:
    """Returns the shape that --shape gives, None if it was not given.

    Raises:
      ConfigError: it is no list of positive numbers.
    """
    if not flags.shape:
        return None
    parts = flags.shape.split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise ConfigError(
            describe("--shape", f'"{flags.shape}" is no shape', "3,227,227")
        )
    return tuple(int(part) for part in parts)
