"""The command `jaxcaffe COMMAND ...`: one name for every entry point.

Follows main of caffe/tools/caffe.cpp, which finds its commands by name too.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Sequence
from typing import NoReturn

from jaxcaffe.errors import ConfigError, describe, nearest
from jaxcaffe.tools import cli

GROUPS = {
    "Train, test, measure": {
        "train": ("jaxcaffe.train", "trains a net from a solver or a config.py"),
        "test": ("jaxcaffe.tools.test", "scores a net on its own data"),
        "time": ("jaxcaffe.tools.time", "times a net's passes on its own data"),
        "profile": ("jaxcaffe.profile", "times each layer and the whole step of a run"),
        "device_query": (
            "jaxcaffe.tools.device_query",
            "tells what JAX knows of the devices",
        ),
    },
    "Use a net": {
        "classify": ("jaxcaffe.tools.classify", "names what image files show"),
        "detect": ("jaxcaffe.tools.detect", "classifies windows of images"),
        "extract_features": (
            "jaxcaffe.tools.extract_features",
            "stores what a net computes",
        ),
    },
    "See a net or a run": {
        "draw_net": ("jaxcaffe.tools.draw_net", "draws a net, with shapes and costs"),
        "summarize": ("jaxcaffe.tools.summarize", "prints a net as a table"),
        "draw_filters": (
            "jaxcaffe.tools.draw_filters",
            "draws a convolution's filters",
        ),
        "plot": ("jaxcaffe.tools.plot", "draws the curves of runs into one picture"),
        "plot_training_log": (
            "jaxcaffe.tools.plot_training_log",
            "draws one chart of training logs",
        ),
        "parse_log": ("jaxcaffe.tools.parse_log", "turns a training log into tables"),
    },
    "Data": {
        "make_image_list": (
            "jaxcaffe.tools.make_image_list",
            "makes label lists from folders of images",
        ),
        "resize_and_crop_images": (
            "jaxcaffe.tools.resize_and_crop_images",
            "makes square images of one size",
        ),
        "convert_imageset": (
            "jaxcaffe.tools.convert_imageset",
            "makes a database of the images of a list",
        ),
        "convert_mnist_data": (
            "jaxcaffe.tools.convert_mnist_data",
            "makes a database of MNIST's files",
        ),
        "convert_mnist_siamese_data": (
            "jaxcaffe.tools.convert_mnist_siamese_data",
            "makes a database of pairs of digits",
        ),
        "convert_cifar_data": (
            "jaxcaffe.tools.convert_cifar_data",
            "makes the databases of CIFAR-10's files",
        ),
        "compute_image_mean": (
            "jaxcaffe.tools.compute_image_mean",
            "averages the images of a database",
        ),
    },
    "Weights and old files": {
        "convert_weights": (
            "jaxcaffe.tools.convert_weights",
            "converts weights between file formats",
        ),
        "upgrade_net_proto_text": (
            "jaxcaffe.tools.upgrade_net_proto_text",
            "brings an old net prototxt to today's form",
        ),
        "upgrade_net_proto_binary": (
            "jaxcaffe.tools.upgrade_net_proto_binary",
            "brings an old .caffemodel to today's form",
        ),
        "upgrade_solver_proto_text": (
            "jaxcaffe.tools.upgrade_solver_proto_text",
            "brings an old solver prototxt to today's form",
        ),
    },
}
"""Title -> command -> module with main(argv), and what it does."""

COMMANDS = {name: entry for group in GROUPS.values() for name, entry in group.items()}
"""The same without the titles."""


def main() -> NoReturn:
    """Runs the process's command line and exits with its status."""
    cli.run(dispatch)


def dispatch(argv: Sequence[str]) -> int:
    """Calls the command that `argv` begins with; returns the exit status.

    Args:
      argv: the arguments without the program's name; hyphens in the command's name
        count as underscores.

    Raises:
      CaffeError: an unknown command, and whatever the command raises.
    """
    first, *rest = argv or ["--help"]
    if first in ("--help", "-help", "-h", "help"):
        print(usage())
        # Asked for, it is the answer; without a command, it is the complaint.
        return 0 if argv else 1
    if first in ("--version", "-version"):
        print(f"jaxcaffe version {importlib.metadata.version('jaxcaffe')}")
        return 0
    name = first.replace("-", "_")
    if name not in COMMANDS:
        raise ConfigError(
            describe("jaxcaffe", f'unknown command "{first}"', nearest(name, COMMANDS))
        )
    module, _ = COMMANDS[name]
    return importlib.import_module(module).main(rest)


def usage() -> str:
    """Returns what `jaxcaffe --help` prints."""
    width = max(map(len, COMMANDS))
    lines: list[str] = []
    for title, commands in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:<{width}}  {what}" for name, (_, what) in commands.items()]
    return "\n".join(
        [
            "usage: jaxcaffe COMMAND ...",
            *lines,
            "",
            "jaxcaffe COMMAND --help tells more; --version tells the version.",
        ]
    )


if __name__ == "__main__":
    main()
