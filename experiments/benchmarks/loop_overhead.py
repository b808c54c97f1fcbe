"""What reading records and starting steps cost a training run, beyond its steps.

The compiled training step runs by turns on one batch that stays on the device, and as
in training: each step on a batch of its own, read from an LMDB and copied meanwhile.
If the two take as long, reading and dispatch are hidden behind the arithmetic. `waited`
is the share of time that the loop stood still until a batch was read.

  python experiments/benchmarks/loop_overhead.py
  python experiments/benchmarks/loop_overhead.py --only=caffenet --images=FOLDER
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
from sample_data import Case, write_training

from jaxcaffe import run as runs
from jaxcaffe.config import default_config

CASES = (
    Case("lenet", 100, 28, 1),
    Case("cifar10_quick", 100, 32, 3),
    Case("caffenet", 32, 256, 3),
)


class Turn(NamedTuple):
    """Some steps."""

    step: float  # seconds of each
    waited: float  # share of the time
    cpu: float  # seconds of processor time of each, all threads


def open_case(case: Case, folder: str, images: str) -> runs.Run:
    """Makes the database and opens a training run on it."""
    config = default_config()
    config.solver = write_training(case, folder, images)
    return runs.open_run(config)


def measure(run: runs.Run, rounds: int, seconds: float) -> tuple[int, dict]:
    """Returns steps per turn, and the turns of either kind."""
    state, step = runs.make_state(run), runs.compile_train_step(run)
    feed = runs.open_device_feed(run, run.train)
    same = next(feed)

    def turn(steps: int, fed: bool) -> Turn:
        nonlocal state
        waited, begin, cpu = feed.waited, time.perf_counter(), time.process_time()
        for _ in range(steps):
            state, report = step(state, next(feed) if fed else same)
        jax.block_until_ready((state, report))
        spent = time.perf_counter() - begin
        cpu = time.process_time() - cpu
        return Turn(spent / steps, (feed.waited - waited) / spent, cpu / steps)

    turn(2, True)
    steps = max(3, round(seconds / turn(3, True).step))
    found: dict[bool, list[Turn]] = {False: [], True: []}
    for number in range(2 * rounds):
        fed = number % 4 in (1, 2)
        found[fed].append(turn(steps, fed))
    feed.close()
    return steps, found


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a row for each net."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="one of the nets")
    parser.add_argument("--images", default="", help="folder of JPEG files")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5, help="that a turn lasts")
    flags = parser.parse_args(argv)
    print(
        "| net | batch | step alone, ms | step in a run, ms | ratio "
        "| of processor time | waited |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    for case in CASES:
        if flags.only not in ("", case.name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            run = open_case(case, folder, flags.images)
            _, found = measure(run, flags.rounds, flags.seconds)
        alone, fed = (
            statistics.median(turn.step for turn in found[kind]) * 1e3
            for kind in (False, True)
        )
        waited = statistics.median(turn.waited for turn in found[True])
        cpus = [
            statistics.median(turn.cpu for turn in found[kind])
            for kind in (True, False)
        ]
        print(
            f"| {case.name} | {case.batch} | {alone:.2f} | {fed:.2f} | "
            f"{fed / alone:.3f} | {cpus[0] / cpus[1]:.3f} | {100 * waited:.1f} % |",
            flush=True,
        )


if __name__ == "__main__":
    main()
