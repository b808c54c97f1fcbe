"""Layer types of the user's own, from files or modules that a config or a flag names.

Follows caffe/include/caffe/layer_factory.hpp, where a program registers its layers.
"""

from __future__ import annotations

import os

from jaxcaffe.errors import ConfigError, LayerError, describe
from jaxcaffe.host.modules import import_module, load_file


def load_layers(names: str, where: str = "config.layers") -> None:
    """Runs files or imports modules that file layer types with `layers.register`.

    Args:
      names: separated by commas; each a path that ends in .py, run anew each time, or
        the dotted name of a module on PYTHONPATH or in the working directory.
      where: what to name in errors.

    Raises:
      ConfigError: one is not there, fails, or files a type whose name is taken.
    """
    for name in filter(None, map(str.strip, names.split(","))):
        try:
            if name.endswith(".py"):
                load_file(name)
            else:
                import_module(name, (os.getcwd(),))
        except LayerError as error:
            raise ConfigError(
                describe(f"{where}={name}", error.problem, error.accepted)
            ) from error
