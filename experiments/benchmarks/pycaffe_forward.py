"""What pycaffe's `net.forward()` costs over the compiled forward pass itself.

Both run LeNet at batch 64 by turns in one process: the compiled net, whose output is
copied to the host, and `net.forward()` of a warm net, which copies its outputs too; the
latter also with one blob inside the net read after each pass.

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
CALLS = 20  # per turn


def time_calls(call: Callable[[], object]) -> float:
    """Returns milliseconds per call."""
    begin = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - begin) / CALLS * 1e3


def open_net() -> caffe.Net:
    """Returns LeNet with a batch of noise in its input, compiled."""
    net = caffe.Net(NET, caffe.TEST)
    net.blobs["data"].reshape(BATCH, 1, 28, 28)
    net.blobs["data"].data[...] = np.random.default_rng(0).random((BATCH, 1, 28, 28))
    net.forward()
    return net


def main(rounds: int) -> None:
    """Prints medians over `rounds` turns, and their ratios."""
    caffe.init_log(2)
    net, reader = open_net(), open_net()
    _ = reader.blobs["conv2"].data
    reader.forward()

    data = net.blobs["data"].data_side.to_device()
    params, stats = memory.read_weights(net.state)

    @jax.jit
    def forward(params, stats, data):  # type: ignore[no-untyped-def]
        out = net.state.built.net.apply(
            params, stats, {"data": data}, jax.random.key(0)
        )
        return out.blobs["prob"]

    with jax.default_matmul_precision("highest"):
        np.array(forward(params, stats, data))

        def run_compiled() -> None:
            np.array(forward(params, stats, data))

        def run_and_read() -> None:
            reader.forward()
            _ = reader.blobs["conv2"].data

        found: dict[str, list[float]] = {}
        for _ in range(rounds):
            for title, call in (
                ("compiled forward, output copied", run_compiled),
                ("net.forward()", net.forward),
                ("net.forward(), then conv2 read", run_and_read),
            ):
                found.setdefault(title, []).append(time_calls(call))
    base = statistics.median(found["compiled forward, output copied"])
    print(f"LeNet, batch {BATCH}, medians of {rounds} turns of {CALLS} calls")
    for title, times in found.items():
        median = statistics.median(times)
        print(f"{title:34s} {median:7.3f} ms  {median / base:5.2f} x")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
