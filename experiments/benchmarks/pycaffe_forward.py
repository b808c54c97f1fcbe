"""What pycaffe's `net.forward()` costs over the compiled forward pass itself.

Each row runs LeNet at batch 64 two ways, by turns in one process: as one compiled
function of the core, whose results are copied to the host, and as `net.forward()` of a
warm net. The rows differ in what is read, and thus copied, after a pass, and in whether
the input is written before it: into memory that is kept, and copied from there.

  python experiments/benchmarks/pycaffe_forward.py [ROUNDS]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import jax
import numpy as np

import jaxcaffe.pycaffe as caffe
from jaxcaffe.pycaffe import memory

NET = "prototxt/lenet/deploy.prototxt"
BATCH = 64
CALLS = 10  # per turn

ROWS = (
    ("output read", ("prob",), False),
    ("output and conv2 read", ("prob", "conv2"), False),
    ("input written, output read", ("prob",), True),
)
"""Title, blobs that are read after a pass, whether the input is written before it."""


def time_calls(call: Callable[[], object]) -> float:
    """Returns milliseconds per call."""
    begin = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - begin) / CALLS * 1e3


def make_input() -> np.ndarray:
    """Returns a batch of noise."""
    shape = (BATCH, 1, 28, 28)
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def open_net() -> caffe.Net:
    """Returns LeNet with a batch of noise in its input."""
    net = caffe.Net(NET, caffe.TEST)
    net.blobs["data"].reshape(BATCH, 1, 28, 28)
    net.blobs["data"].data[...] = make_input()
    net.forward()
    return net


def make_compiled(
    net: caffe.Net, read: tuple[str, ...], writes: bool
) -> Callable[[], object]:
    """Returns a function that runs the core's forward pass as one program."""
    data, key = make_input(), jax.random.key(0)
    params, stats = memory.read_weights(net.state)
    core = net.state.built.net

    @jax.jit
    def forward(params, stats, data):  # type: ignore[no-untyped-def]
        out = core.apply(params, stats, {"data": data}, key)
        return [out.blobs[name] for name in read]

    given, room = jax.device_put(data), np.empty_like(data)

    def run() -> list[np.ndarray]:
        feed = given
        if writes:
            room[...] = data
            feed = jax.device_put(room.copy())
        with jax.default_matmul_precision("highest"):
            return [np.array(value) for value in forward(params, stats, feed)]

    return run


def make_pycaffe(
    net: caffe.Net, read: tuple[str, ...], writes: bool
) -> Callable[[], object]:
    """Returns a function that does the same with `net.forward()`."""
    data = make_input()

    def run() -> list[np.ndarray]:
        if writes:
            net.blobs["data"].data[...] = data
        net.forward()
        return [net.blobs[name].data for name in read]

    return run


def main(rounds: int) -> None:
    """Prints the medians over `rounds` turns of each row, and their ratio."""
    caffe.init_log(2)
    print(f"LeNet, batch {BATCH}, ms a pass, medians of {rounds} turns of {CALLS}")
    print(f"{'':28s} compiled  net.forward()  ratio")
    for title, read, writes in ROWS:
        net = open_net()
        ways = (make_compiled(net, read, writes), make_pycaffe(net, read, writes))
        for way in ways:
            for _ in range(3):  # compiles, and shows the net what is read
                way()
        times = []
        for number in range(rounds):
            first = number % 2  # each goes first as often as the other
            taken = {way: time_calls(ways[way]) for way in (first, 1 - first)}
            times.append((taken[0], taken[1]))
        base, ours = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(b / a for a, b in times)
        print(f"{title:28s} {base:8.3f}  {ours:13.3f}  {ratio:5.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
