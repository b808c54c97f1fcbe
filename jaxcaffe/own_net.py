"""A net by itself, without a solver, on the data of its own data layers.

Follows the test and time commands of caffe/tools/caffe.cpp.
"""

from __future__ import annotations

from argparse import Namespace
from typing import NamedTuple

import jax

from jaxcaffe import cpu, errors, fed_net, sharding
from jaxcaffe import run as runs
from jaxcaffe.config import default_config
from jaxcaffe.devices import (
    device_number,
    hide_others,
    parse_ids,
    pick_devices,
)
from jaxcaffe.log import logger
from jaxcaffe.prefetch import DeviceFeed
from jaxcaffe.proto import caffe_pb2, text, upgrade
from jaxcaffe.solver import nets
from jaxcaffe.tools import cli
from jaxcaffe.tools.layers_flag import add_layers_flag, load_flagged_layers
from jaxcaffe.tools.state_flags import add_state_flags, read_state


class OwnNet(NamedTuple):
    """A net and what it runs on."""

    fed: fed_net.FedNet
    mesh: jax.sharding.Mesh

    def open_feed(self) -> DeviceFeed:
        """Starts reading the records, from the first one on."""
        return fed_net.open_device_feed(self.fed, self.mesh)


def add_net_flags(parser: cli.Parser) -> None:
    """Declares what commands on a net alone share: model, iterations, gpu and so on."""
    parser.flag("model", "", "the net's prototxt")
    parser.flag("iterations", 50, "how many batches")
    parser.flag(
        "gpu",
        "",
        "number of the accelerator to use, or all; of several numbers the first, as in "
        "Caffe. By default all that there are, or the CPU",
    )
    add_state_flags(parser)
    add_layers_flag(parser)
    parser.flag(
        "precision",
        "parity",
        "parity: float32 throughout; fast: as the device likes it",
        choices=("parity", "fast"),
    )


def check_net_flags(command: str, flags: Namespace) -> None:
    """Refuses flags that cannot be, before anything is read.

    Raises:
      ConfigError: no --model; an --iterations below 1; a --gpu that is no list.
    """
    if not flags.model:
        raise errors.ConfigError(
            errors.describe(command, "no net is given", "-model net.prototxt")
        )
    if flags.iterations < 1:
        raise errors.ConfigError(
            errors.describe("--iterations", f"is {flags.iterations}", "at least 1")
        )
    parse_ids(flags.gpu, "--gpu")


def open_own_net(flags: Namespace, phase: caffe_pb2.Phase, seed: int = 0) -> OwnNet:
    """Reads the net that flags name, and opens its data.

    Args:
      flags: parsed by a parser with `add_net_flags`, and checked.
      phase: of the net.
      seed: of shuffles in its data layers.

    Raises:
      CaffeError: whatever the net or its data say that cannot be.

    Source: caffe/tools/caffe.cpp, test and time. Differs: none.
    """
    load_flagged_layers(flags)
    cpu.tune_cpu()
    runs.set_precision(flags.precision)
    numbers = parse_ids(flags.gpu, "--gpu")[:1]
    hide_others(numbers)
    chosen = ",".join(map(str, numbers)) or flags.gpu
    mesh = sharding.make_mesh(0, pick_devices(chosen, "--gpu"))
    _log_device(mesh)
    asked = read_state(flags, phase)
    # With a net by itself the file's own level does not count.
    asked.level = flags.level or 0
    parameter, source = text.read_net(flags.model)
    parameter = upgrade.upgrade_net(parameter, source)
    use = nets.NetUse("net", flags.model, phase, asked, flags.iterations)
    built = fed_net.build_fed_graph(parameter, use, source)
    fed = fed_net.feed_net(default_config(), built, use, seed, mesh)
    return OwnNet(fed, mesh)


def _log_device(mesh: jax.sharding.Mesh) -> None:
    """Source: caffe/tools/caffe.cpp, test. Differs: none for a single device."""
    for device in mesh.devices.flat:
        if device.platform == "cpu":
            logger.info("Use CPU.")
            return
        kind = device.platform.upper()
        logger.info("Use %s with device ID %d", kind, device_number(device))
        logger.info("%s device name: %s", kind, device.device_kind)
