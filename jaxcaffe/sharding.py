"""The device mesh: batches split over the `data` axis, everything else replicated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcaffe import errors
from jaxcaffe.spec import Blobs

DATA_AXIS = "data"


def make_mesh(devices: int = 0, among: Sequence[jax.Device] = ()) -> Mesh:
    """Returns a one-axis mesh over the first `devices` devices; 0 takes all.

    Args:
      devices: how many.
      among: which there are to choose from; none for all that JAX finds.

    Raises:
      ConfigError: more devices asked for than there are.
    """
    present = list(among) or jax.devices()
    if devices > len(present):
        raise errors.ConfigError(
            errors.describe(
                "config.devices",
                f"{devices} devices asked for, {len(present)} present",
                f"1 to {len(present)}, or 0 for all",
            )
        )
    return Mesh(np.asarray(present[: devices or len(present)]), (DATA_AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of params, history and scalars: whole on each device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Returns the sharding of a batch array: records divided over the devices.

    Args:
      mesh: from `make_mesh`.
      leading: axes before the record axis (1 when iter_size batches are stacked).
    """
    return NamedSharding(mesh, PartitionSpec(*[None] * leading, DATA_AXIS))


def check_batch_size(batch_size: int, mesh: Mesh, where: str) -> None:
    """Refuses a batch that the devices of the mesh do not divide.

    Raises:
      ConfigError: names the nearest sizes that work.
    """
    count = mesh.size
    if batch_size % count:
        below = batch_size // count * count
        sizes = [str(n) for n in (below, below + count) if n]
        raise errors.ConfigError(
            errors.describe(
                where,
                f"batch_size {batch_size} cannot be divided over {count} devices",
                f"batch_size {' or '.join(sizes)}, or --config.devices=N with N "
                f"dividing {batch_size}",
            )
        )


def put_batch(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> Blobs:
    """Starts the copy of a host batch to the devices and returns at once.

    Args:
      batch: blob name -> array.
      sharding: `split_batch`, or `replicated` for a batch that cannot be divided.
    """
    return jax.device_put(dict(batch), sharding)
