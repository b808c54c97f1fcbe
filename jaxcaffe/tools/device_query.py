"""Tells what JAX knows of the devices: `jaxcaffe device_query`.

Follows the device_query command of caffe/tools/caffe.cpp and DeviceQuery of
caffe/src/caffe/common.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax

from jaxcaffe import log
from jaxcaffe.devices import device_number, hide_others, parse_ids, pick_devices
from jaxcaffe.log import logger
from jaxcaffe.tools import cli

DESCRIPTION = """\
Tells what JAX knows of the GPUs or TPUs, or of the CPU where there are none.

  jaxcaffe device_query
  jaxcaffe device_query -gpu 0,1"""


def main(argv: Sequence[str]) -> int:
    """Runs the command line; see --help. Returns the exit status.

    Raises:
      ConfigError: a flag is wrong, or there is no such device.
    """
    parser = cli.Parser("jaxcaffe device_query", DESCRIPTION)
    parser.flag("gpu", "", "devices by number, comma-separated, or all; default: all")
    flags = parser.parse(argv)
    numbers = parse_ids(flags.gpu, "--gpu")
    with log.logging_to(None):
        logger.info("Querying GPUs %s", flags.gpu)
        hide_others(numbers)
        for device in pick_devices(flags.gpu, "--gpu"):
            for name, value in describe_device(device):
                logger.info("%-30s %s", f"{name}:", value)
    return 0


def describe_device(device: jax.Device) -> Iterator[tuple[str, object]]:
    """Yields name and value of what is known, under Caffe's names.

    Source: caffe/src/caffe/common.cpp, DeviceQuery. Differs: what JAX does not know is
    left out; the platform, and the memory in use in bytes, are there.
    """
    yield "Device id", device_number(device)
    yield "Platform", device.platform.upper()
    capability = str(getattr(device, "compute_capability", ""))
    if "." in capability:
        major, minor = capability.split(".", 1)
        yield "Major revision number", major
        yield "Minor revision number", minor
    yield "Name", device.device_kind
    memory = device.memory_stats() or {}
    if "bytes_limit" in memory:
        yield "Memory that JAX may use (bytes)", memory["bytes_limit"]
    if "bytes_in_use" in memory:
        yield "Memory in use (bytes)", memory["bytes_in_use"]
    cores = getattr(device, "core_count", None)
    if cores is not None:
        yield "Number of multiprocessors", cores


if __name__ == "__main__":
    cli.run(main)
