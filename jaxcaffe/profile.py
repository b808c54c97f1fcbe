"""Tells where a run's time goes: `python -m jaxcaffe.profile CONFIG_OR_NET`.

Follows the time command of caffe/tools/caffe.cpp. Only `-m` starts it: as a script, its
folder would hide Python's own module of this name.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence

from jaxcaffe import cpu, errors, log
from jaxcaffe import run as runs
from jaxcaffe.config import load_config, split_overrides
from jaxcaffe.datasets.prepare import prepare
from jaxcaffe.profiling import report
from jaxcaffe.profiling.from_config import open_config
from jaxcaffe.profiling.from_net import open_net
from jaxcaffe.profiling.subject import Subject
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.files import read_bytes
from jaxcaffe.proto.scan import scan
from jaxcaffe.tools import cli
from jaxcaffe.tools.layers_flag import add_layers_flag, load_flagged_layers
from jaxcaffe.tools.shape_flag import add_shape_flag, read_shape
from jaxcaffe.tools.state_flags import add_state_flags, read_state

DESCRIPTION = """\
Times each layer forward and backward, then the step that training really runs.

  python -m jaxcaffe.profile configs/caffenet.py
  python -m jaxcaffe.profile configs/digits.py --phase=TEST --trace=/tmp/trace
  python -m jaxcaffe.profile deploy.prototxt --iterations=50
  python -m jaxcaffe.profile train_val.prototxt --shape=3,256,256

CONFIG is a config.py or a solver prototxt, and runs on its own data; any field of it
may be given as --config.FIELD=VALUE. NET is a net's prototxt, and runs on random
numbers; --shape gives a record's channels, rows and columns, before crop_size cuts it,
so that the data need not be there. Nothing is kept of what is trained. Only --trace
writes, and a config's prepare, which makes its data set if that is missing."""


def main(argv: Sequence[str]) -> int:
    """Runs the command line; see --help. Returns the exit status.

    Raises:
      CaffeError: whatever the files, the data or the flags say that cannot be.
    """
    argv, overrides = split_overrides(argv)
    parser = cli.Parser("jaxcaffe.profile", DESCRIPTION)
    parser.argument("config_or_net", "a config.py, a solver prototxt, a net prototxt")
    parser.flag("iterations", 10, "calls that each mean is taken over")
    parser.flag("phase", "TRAIN", "which net", choices=("TRAIN", "TEST"))
    add_state_flags(parser)
    add_layers_flag(parser)
    parser.flag("trace", "", "folder to make, for a trace by jax.profiler of the step")
    add_shape_flag(parser, "in place of the data of a NET")
    parser.flag(
        "precision",
        "config",
        "as the config says, which for a NET is parity, or one of these",
        choices=("config", "parity", "fast"),
    )
    flags = parser.parse(argv)
    load_flagged_layers(flags)
    if flags.iterations < 1:
        raise errors.ConfigError(
            errors.describe("--iterations", f"is {flags.iterations}", "at least 1")
        )
    _check_trace(flags.trace)
    cpu.tune_cpu()
    asked = read_state(flags, caffe_pb2.Phase.Value(flags.phase))
    with log.logging_to(None, construction=False):
        if is_net(flags.config_or_net):
            subject = _open_net(flags, overrides, asked)
        else:
            subject = _open_config(flags, overrides, asked)
        try:
            report.print_profile(subject, flags.iterations, flags.trace)
        finally:
            subject.close()
    return 0


def _open_net(
    flags: Namespace, overrides: Sequence[str], asked: caffe_pb2.NetState
) -> Subject:
    if overrides:
        raise errors.ConfigError(
            errors.describe(
                f"--config.{overrides[0]}",
                f"{flags.config_or_net} is a net, which has no config",
                "a config.py or a solver prototxt, or no --config flags",
            )
        )
    precision = "parity" if flags.precision == "config" else flags.precision
    runs.set_precision(precision)
    shape = read_shape(flags)
    # As Caffe does with a net by itself: the file's own level does not count.
    asked.level = flags.level or 0
    return open_net(flags.config_or_net, asked, shape, precision)


def _open_config(
    flags: Namespace, overrides: Sequence[str], asked: caffe_pb2.NetState
) -> Subject:
    if flags.shape:
        raise errors.ConfigError(
            errors.describe(
                "--shape",
                f"{flags.config_or_net} has data of its own",
                "a net's prototxt, or no --shape",
            )
        )
    config = load_config(flags.config_or_net, overrides)
    if flags.precision != "config":
        with config.unlocked():
            config.precision = flags.precision
    prepare(config.prepare)
    return open_config(config, flags.config_or_net, asked)


def is_net(path: str) -> bool:
    """Tells a net's prototxt from a solver's, or a config.py, by its fields.

    Of the fields on the outermost level, those that only a net has are counted against
    those that only a solver has.

    Raises:
      PrototxtError: the file is missing or empty.
    """
    if path.endswith(".py"):
        return False
    text = read_bytes(path, errors.ConfigError).decode("utf-8", "replace")
    found = {t.text for t in scan(text).tokens if t.role == "field" and t.frame == 0}
    net = set(caffe_pb2.NetParameter.DESCRIPTOR.fields_by_name)
    solver = set(caffe_pb2.SolverParameter.DESCRIPTOR.fields_by_name)
    return len(found & (net - solver)) > len(found & (solver - net))


def _check_trace(folder: str) -> None:
    if not folder or not os.path.lexists(folder):
        return
    if not os.path.isdir(folder) or os.listdir(folder):
        raise errors.ConfigError(
            errors.describe(
                f"--trace={folder}",
                "exists already, and is left as it is",
                "a new or an empty folder",
            )
        )


if __name__ == "__main__":
    cli.run(main)
