"""What must be equal for a resumed run to give the same bits.

No counterpart in Caffe, which promises nothing of the kind.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from typing import Any

import jax

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
"""The XLA flag under which a GPU sums in a fixed order."""

_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "numpy"),  # compute
    *("grain", "lmdb", "h5py", "protobuf", "opencv-python-headless"),  # read
)


def environment(devices: int, steps_per_dispatch: int) -> dict[str, Any]:
    """Returns what must be equal for a resumed run to be bit-identical.

    Args:
      devices: how many devices the run uses.
      steps_per_dispatch: iterations that its compiled program runs, at most.
    """
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "device": device.device_kind,
        "platform": device.platform,
        "devices": devices,
        "steps_per_dispatch": steps_per_dispatch,
        "cpu_threads": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "matmul_precision": str(jax.config.values["jax_default_matmul_precision"]),
        "deterministic": DETERMINISTIC in os.environ.get("XLA_FLAGS", ""),
    }


def environment_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns `name was X, is Y` for each circumstance that changed.

    What the snapshot of an earlier version says nothing of is passed over.
    """
    then = {"steps_per_dispatch": 1, **then}  # once there was no other number
    return [
        f"{name} was {then[name]}, is {value}"
        for name, value in now.items()
        if name in then and then[name] != value
    ]
