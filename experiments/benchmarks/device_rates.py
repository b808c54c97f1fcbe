"""What devices can do at most, from their makers' data sheets.

Tesla K40: NVIDIA, Tesla K40 GPU Accelerator, Board Specification BD-06902-001: 2880
  cores at a base clock of 745 MHz, which is 4.29 TFLOP/s in single precision; 288 GB/s,
  12 GB, PCI Express 3.0 x16.
H100 SXM5: NVIDIA, H100 Tensor Core GPU Datasheet: 67 TFLOP/s FP32, 989 TFLOP/s TF32 and
  1979 TFLOP/s BF16 "with sparsity", which is twice what dense products get; 3.35 TB/s,
  80 GB, NVLink 900 GB/s both ways together.
H200 SXM: NVIDIA, H200 Tensor Core GPU Datasheet: the same rates, 4.8 TB/s, 141 GB.
TPU v5e: Google Cloud, cloud.google.com/tpu/docs/v5e: 197 TFLOP/s bf16, 819
  GB/s, 16 GB, 400 GB/s between chips both ways together; pods of 256 chips, with 6.4
  Tbit/s of data-centre network each. A float32 product is six bf16 products there
  ("highest" precision in JAX).

Between machines GPUs are given what is usual: 56 Gbit/s InfiniBand for a machine with
eight K40, 400 Gbit/s for each H100 or H200.
"""

from __future__ import annotations

from typing import NamedTuple

TERA, GIGA = 1e12, 1e9


class Network(NamedTuple):
    """Machines or pods of some devices, joined to larger ones."""

    size: int  # devices of a machine or pod
    near: float  # B/s that each device sends inside, one way
    far: float  # B/s that a whole machine or pod sends to others, one way


class Device(NamedTuple):
    """A device's rates."""

    name: str
    flops: dict[str, float]  # precision -> FLOP/s of products
    bytes: float  # B/s to and from its memory
    memory: float  # B
    network: Network


DEVICES = (
    Device(
        "K40",
        {"parity": 4.29 * TERA},
        288 * GIGA,
        12 * GIGA,
        Network(8, 15.75 * GIGA, 7 * GIGA),
    ),
    Device(
        "H100",
        {"parity": 67 * TERA, "fast": 989 / 2 * TERA},
        3350 * GIGA,
        80 * GIGA,
        Network(8, 450 * GIGA, 8 * 50 * GIGA),
    ),
    Device(
        "H200",
        {"parity": 67 * TERA, "fast": 989 / 2 * TERA},
        4800 * GIGA,
        141 * GIGA,
        Network(8, 450 * GIGA, 8 * 50 * GIGA),
    ),
    Device(
        "TPU v5e",
        {"parity": 197 / 6 * TERA, "fast": 197 * TERA},
        819 * GIGA,
        16 * GIGA,
        Network(256, 200 * GIGA, 6400 / 8 * GIGA),
    ),
)


def step_time(device: Device, precision: str, flops: float, bytes: float) -> float:
    """Returns the least seconds for so much arithmetic and memory traffic.

    Both at full rate and at the same time: a real step takes longer.
    """
    return max(flops / device.flops[precision], bytes / device.bytes)


def reduce_time(device: Device, bytes: float, devices: int) -> float:
    """Returns seconds to sum `bytes` that each of some devices has.

    First inside each machine or pod, each device ending up with a share; then the
    shares over machines; in rings, which send 2 (k - 1) / k times what is summed.
    """
    network = device.network
    inside = min(devices, network.size)
    groups = devices // inside
    near = 2 * (inside - 1) / inside * bytes / network.near
    return near + 2 * (groups - 1) / groups * bytes / network.far
