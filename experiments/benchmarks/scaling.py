"""How the time of a training step grows: batch, image size, number of devices.

Each point is a process of its own, warmed up, and all points of a curve run by turns.
Devices are virtual: XLA divides this machine's cores, so that the step's arithmetic
stays the same and what grows is the cost of dividing the batch and adding gradients.

  python experiments/benchmarks/scaling.py [--net=mobilenet] [--out=FOLDER]
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from turns import Worker, alternate, count_steps
from versus_torch import CASES, SOLVER

MS = 1e3


class Point(NamedTuple):
    """One setting."""

    batch: int
    size: int  # rows and columns of an image
    devices: int


def measure(
    net: str, channels: int, points: Sequence[Point], flags: argparse.Namespace
) -> list[float]:
    """Returns seconds per step of each point."""
    cores = sorted(os.sched_getaffinity(0))
    workers: list[Worker] = []
    try:
        for point in points:
            task = {
                "net": f"prototxt/{net}/train_val.prototxt",
                "kind": "train",
                "batch": point.batch,
                "shape": (channels, point.size, point.size),
                "solver": SOLVER,
            }
            count = f"--xla_force_host_platform_device_count={point.devices}"
            given = os.environ.get("XLA_FLAGS", "")
            workers.append(
                Worker("our_worker.py", task, cores, {"XLA_FLAGS": f"{given} {count}"})
            )
            workers[-1].wait()
        steps = count_steps(workers, flags.seconds)
        turns = alternate(workers, flags.rounds, steps)
    finally:
        for worker in workers:
            worker.close()
    return [statistics.median(turn.seconds) for turn in turns]


def draw(curves: dict[str, tuple[list[int], list[float]]], path: str) -> None:
    """Draws ms per step over each quantity."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, every = pyplot.subplots(
        1, len(curves), figsize=(4 * len(curves), 3.5), layout="constrained"
    )
    for axes, (title, (values, seconds)) in zip(every, curves.items(), strict=True):
        axes.plot(values, [s * MS for s in seconds], marker="o")
        axes.set_xlabel(title)
        axes.set_ylabel("ms per step")
        axes.set_ylim(bottom=0)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints three tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = sorted({case.name for case in CASES})
    parser.add_argument("--net", choices=names, default="mobilenet")
    parser.add_argument("--batches", default="1,2,4,8,16,32")
    parser.add_argument("--sizes", default="96,128,160,192,224")
    parser.add_argument("--devices", default="1,2,4,8")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each point")
    parser.add_argument("--seconds", type=float, default=0.5, help="that a turn lasts")
    parser.add_argument("--out", default="", help="folder for the plot")
    flags = parser.parse_args(argv)
    channels, size, _ = next(c.shape for c in CASES if c.name == flags.net)
    batches, sizes, devices = (
        [int(n) for n in text.split(",")] if text else []
        for text in (flags.batches, flags.sizes, flags.devices)
    )
    settings = {
        "batch": (batches, [Point(n, size, 1) for n in batches]),
        "rows and columns, batch 8": (sizes, [Point(8, n, 1) for n in sizes]),
        "devices, batch 8": (devices, [Point(8, size, n) for n in devices]),
    }
    curves = {}
    for title, (values, points) in settings.items():
        if not points:
            continue
        seconds = measure(flags.net, channels, points, flags)
        curves[title] = (values, seconds)
        print(f"\n| {flags.net}: {title} | ms per step | ms per image |\n|---|---|---|")
        for value, point, time in zip(values, points, seconds, strict=True):
            print(f"| {value} | {time * MS:.1f} | {time / point.batch * MS:.2f} |")
    if flags.out:
        os.makedirs(flags.out, exist_ok=True)
        draw(curves, os.path.join(flags.out, f"scaling_{flags.net}.png"))


if __name__ == "__main__":
    main()
