"""The flag --layers: layer types of the user's own, for commands that take a net alone.

Follows caffe/include/caffe/layer_factory.hpp, where a program registers its layers.
"""

from __future__ import annotations

from argparse import Namespace

from jaxcaffe.tools import cli
from jaxcaffe.user_layers import load_layers


def add_layers_flag(parser: cli.Parser) -> None:
    """Declares --layers."""
    parser.flag("layers", "", "layers of your own: .py files or modules, by commas")


def load_flagged_layers(flags: Namespace) -> None:
    """Files the layer types that --layers names.

    Raises:
      ConfigError: one is not there, fails, or files a type whose name is taken.
    """
    load_layers(flags.layers, "--layers")
