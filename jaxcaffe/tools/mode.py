"""CPU or GPU, and which, as Caffe's tools are told.

Follows SetDevice and set_mode of caffe/include/caffe/common.hpp.
"""

from __future__ import annotations

import jax

from jaxcaffe.errors import ConfigError, describe


def find_device(tool: str, mode: str | None, number: str | None) -> jax.Device | None:
    """Returns the device that a mode and a number name; None for JAX's choice.

    Args:
      tool: for messages.
      mode: "CPU", "GPU", or None for JAX's choice.
      number: of the GPU, from 0; None for the first.

    Raises:
      ConfigError: no such mode or device.
    """
    if mode not in (None, "CPU", "GPU"):
        raise ConfigError(describe(tool, f'MODE is "{mode}"', "CPU, GPU"))
    if mode is None or mode == "CPU":
        return None if mode is None else jax.devices("cpu")[0]
    try:
        devices = jax.devices("gpu")
    except RuntimeError:
        devices = []
    number = "0" if number is None else number
    if not number.isdecimal() or int(number) >= len(devices):
        known = ", ".join(map(str, range(len(devices)))) or "CPU: JAX sees no GPU"
        raise ConfigError(describe(tool, f"no GPU {number}", known))
    return devices[int(number)]
