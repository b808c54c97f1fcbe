"""Which devices a command uses, by number, and what the log says of them.

Follows get_gpus of caffe/tools/caffe.cpp.
"""

from __future__ import annotations

import contextlib

import jax

from jaxcaffe import errors
from jaxcaffe.log import logger

ALL = "all"
_ACCEPTED = "numbers separated by commas, such as 0,2, or all"


def parse_ids(text: str, where: str) -> tuple[int, ...]:
    """Returns the numbers in a list of devices; none for "all" and for "".

    Args:
      text: as Caffe's -gpu takes it.
      where: the flag or field, for messages.

    Raises:
      ConfigError: what is no such list, or names a device twice.
    """
    if text in ("", ALL):
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise errors.ConfigError(
            errors.describe(where, f'"{text}" is no list of devices', _ACCEPTED)
        )
    ids = tuple(int(part) for part in parts)
    if len(set(ids)) < len(ids):
        raise errors.ConfigError(
            errors.describe(where, f'"{text}" names a device twice', _ACCEPTED)
        )
    return ids


def hide_others(ids: tuple[int, ...]) -> None:
    """Keeps JAX away from all GPUs but these; call before it looks for devices.

    It takes most of the memory of every GPU that it sees. No numbers hide none.
    """
    shown = ",".join(map(str, ids)) or ALL
    for name in ("jax_cuda_visible_devices", "jax_rocm_visible_devices"):
        with contextlib.suppress(AttributeError):  # A version that has no such option.
            jax.config.update(name, shown)


def pick_devices(text: str, where: str) -> list[jax.Device]:
    """Returns the accelerators that a list names, in its order.

    Args:
      text: as Caffe's -gpu takes it; "" for whatever devices JAX finds, CPUs too.
      where: the flag or field, for messages.

    Raises:
      ConfigError: there is no accelerator, or none of such a number.
    """
    ids = parse_ids(text, where)
    present = jax.devices()
    if not text:
        return present
    # Several CPU devices are there only where somebody asked for them, to try things.
    if present[0].platform == "cpu" and len(present) == 1:
        raise errors.ConfigError(
            errors.describe(
                where,
                f'is "{text}", and JAX finds no such GPU or TPU here, only the CPU',
                f"no {where}, to run on the CPU",
            )
        )
    if not ids:
        return present
    numbered = {device_number(device): device for device in present}
    missing = [number for number in ids if number not in numbered]
    if missing:
        raise errors.ConfigError(
            errors.describe(
                where,
                f"asks for device {missing[0]}, and JAX finds only "
                + ", ".join(map(str, sorted(numbered))),
                f"{_ACCEPTED}",
            )
        )
    return [numbered[number] for number in ids]


def device_number(device: jax.Device) -> int:
    """Returns the number by which Caffe's users know a device."""
    number = device.local_hardware_id
    return device.id if number is None else number


def log_devices(devices: list[jax.Device]) -> None:
    """Says what is used, in the words of `caffe train`.

    Source: caffe/tools/caffe.cpp, train. Differs: none.
    """
    if devices[0].platform == "cpu":
        logger.info("Use CPU.")
        return
    kind = devices[0].platform.upper()
    numbers = [device_number(device) for device in devices]
    logger.info("Using %ss %s", kind, ", ".join(map(str, numbers)))
    for number, device in zip(numbers, devices, strict=True):
        logger.info("%s %d: %s", kind, number, device.device_kind)
