"""Train steps and forward passes: jaxcaffe against PyTorch, by turns.

  python experiments/benchmarks/versus_torch.py
  python experiments/benchmarks/versus_torch.py --only=caffenet:32 --rounds=9

Both run the same prototxt (torch_net.py translates it), on the same random images that
lie in memory, with the same cores, float32, SGD with momentum and decay; forward passes
are those of the TEST net, with losses and accuracies. LeNet trains with
steps_per_dispatch: 10, as its config does. PyTorch runs twice: as it starts,
and with glibc told to keep its pages, as jaxcaffe tells it by itself. Each is a process
of its own; turns.py lets them run in turn. Needs `pip install -e '.[bench]'`.

Prints a table, and with --out=FOLDER also writes versus_torch.json and
versus_torch.png there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from turns import Turns, Worker, alternate, count_steps, ratio

MS, MIB = 1e3, 2**20
TUNABLES = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:"
    "glibc.malloc.trim_threshold=4294967296"
)
SOLVER = {"rate": 1e-6, "momentum": 0.9, "decay": 0.0005}


class Case(NamedTuple):
    """A net with a batch size."""

    name: str
    batch: int
    shape: tuple[int, int, int]  # of an image
    steps_per_dispatch: int = 1  # that a run of ours would set


class Row(NamedTuple):
    """What came out for one net, batch size and kind of step."""

    case: Case
    kind: str  # "train" or "forward"
    steps: int  # per turn
    ours: Turns
    theirs: Turns
    tuned: Turns  # theirs, with TUNABLES


CASES = (
    Case("caffenet", 32, (3, 227, 227)),
    Case("caffenet", 128, (3, 227, 227)),
    Case("googlenet", 32, (3, 224, 224)),
    Case("vgg16", 8, (3, 224, 224)),
    Case("resnet50", 16, (3, 224, 224)),
    Case("mobilenet", 32, (3, 224, 224)),
    Case("lenet", 100, (1, 28, 28), steps_per_dispatch=10),
    Case("cifar10_quick", 100, (3, 32, 32)),
)
KINDS = ("train", "forward")


def measure(case: Case, kind: str, flags: argparse.Namespace) -> Row:
    """Starts all three, lets them run by turns, ends them."""
    cores = sorted(os.sched_getaffinity(0))[: flags.threads]
    task = {
        "net": f"prototxt/{case.name}/train_val.prototxt",
        "batch": case.batch,
        "shape": case.shape,
        "kind": kind,
        "solver": SOLVER,
        "steps_per_dispatch": case.steps_per_dispatch,
        "threads": len(cores),
        "fused": flags.torch_fused,
        "channels_last": flags.torch_channels_last,
    }
    workers: list[Worker] = []
    try:
        # One after the other, so that neither warms up while the other does.
        for script, environment in (
            ("our_worker.py", {}),
            ("torch_worker.py", {}),
            ("torch_worker.py", {"GLIBC_TUNABLES": TUNABLES}),
        ):
            workers.append(Worker(script, task, cores, environment))
            workers[-1].wait()
        steps = count_steps(workers, flags.seconds)
        turns = alternate(workers, flags.rounds, steps)
    finally:
        for worker in workers:
            worker.close()
    return Row(case, kind, steps, *turns)


def show(row: Row) -> str:
    """Returns a line of the table."""
    parts = [row.case.name, str(row.case.batch), row.kind]
    parts.append(f"{statistics.median(row.ours.seconds) * MS:.1f}")
    parts.append(f"{row.ours.memory / MIB:.0f}")
    for other in (row.theirs, row.tuned):
        middle, least, most = ratio(row.ours, other)
        parts.append(f"{statistics.median(other.seconds) * MS:.1f}")
        parts.append(f"{middle:.2f} ({least:.2f}-{most:.2f})")
        parts.append(f"{row.ours.memory / other.memory:.2f}")
    return f"| {' | '.join(parts)} |"


HEAD = """\
Ratios are ours / theirs: of median times (least and greatest of single turns), and of
the most memory that the processes held.
| net | batch | step | ours, ms | MiB | PyTorch, ms | ratio | memory | tuned, ms | \
ratio | memory |
|---|---|---|---|---|---|---|---|---|---|---|"""


def draw(rows: Sequence[Row], path: str) -> None:
    """Draws the ratios, two bars per row."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    labels = [f"{row.case.name} {row.case.batch}, {row.kind}" for row in rows]
    figure, axes = pyplot.subplots(
        figsize=(8, 1.5 + 0.4 * len(rows)), layout="constrained"
    )
    for place, (title, others) in enumerate(
        (
            ("PyTorch as it starts", [row.theirs for row in rows]),
            ("PyTorch with glibc tuned", [row.tuned for row in rows]),
        )
    ):
        found = [
            ratio(row.ours, other) for row, other in zip(rows, others, strict=True)
        ]
        errors = [
            [max(0.0, middle - least) for middle, least, _ in found],
            [max(0.0, most - middle) for middle, _, most in found],
        ]
        axes.barh(
            [index + 0.4 * place - 0.2 for index in range(len(rows))],
            [middle for middle, _, _ in found],
            0.38,
            xerr=errors,
            color=("tab:blue", "tab:orange")[place],
            ecolor="gray",
            label=title,
        )
    axes.set_yticks(range(len(rows)), labels)
    axes.legend()
    axes.axvline(1, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("time of jaxcaffe / time of PyTorch (below 1: jaxcaffe is faster)")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def write(rows: Sequence[Row], folder: str) -> None:
    """Writes all turns as JSON, and the plot."""
    os.makedirs(folder, exist_ok=True)
    found = [
        {
            **row.case._asdict(),
            "kind": row.kind,
            "steps": row.steps,
            "ours": row.ours._asdict(),
            "theirs": row.theirs._asdict(),
            "tuned": row.tuned._asdict(),
        }
        for row in rows
    ]
    with open(os.path.join(folder, "versus_torch.json"), "w") as file:
        json.dump(found, file, indent=1)
    draw(rows, os.path.join(folder, "versus_torch.png"))


def pick(only: str) -> list[tuple[Case, str]]:
    """Returns what `--only` names: NET, NET:BATCH or NET:BATCH:KIND, with commas."""
    every = [(case, kind) for case in CASES for kind in KINDS]
    if not only:
        return every
    picked = []
    for name in only.split(","):
        for case, kind in every:
            whole = (case.name, str(case.batch), kind)
            if whole[: len(name.split(":"))] == tuple(name.split(":")):
                picked.append((case, kind))
    if not picked:
        raise SystemExit(f"--only={only} names no net. Accepted: caffenet:32:train")
    return picked


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what is asked for and prints a row as soon as it is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="such as caffenet:32:train,lenet")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each")
    parser.add_argument("--seconds", type=float, default=1.5, help="that a turn lasts")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", default="", help="folder for numbers and plot")
    parser.add_argument(
        "--torch_fused",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="PyTorch's fused SGD, its fastest",
    )
    parser.add_argument("--torch_channels_last", action="store_true")
    flags = parser.parse_args(argv)
    print(f"{flags.threads} threads each, medians of {flags.rounds} turns", flush=True)
    print(HEAD, flush=True)
    rows = []
    for case, kind in pick(flags.only):
        rows.append(measure(case, kind, flags))
        print(show(rows[-1]), flush=True)
        if flags.out:
            write(rows, flags.out)


if __name__ == "__main__":
    main()
