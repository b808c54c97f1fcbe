"""How fast training could be on devices that are not here.

Compiles each training step for a TPU v5e pod, without having one, and divides what XLA
counts in the compiled program (operations, bytes to and from memory) by what the data
sheets promise (device_rates.py). A step needs at least the greater of the two times;
real ones take longer, small layers and narrow channels most of all. Rows of other
devices take the same counts.

  pip install libtpu
  JAX_PLATFORMS=cpu python experiments/benchmarks/roofline.py [--only=caffenet]

Then what part of n times one device's speed is left on n of them, and what the compiler
says of each chip: memory, and bytes that it sums over chips, which should be those of
the gradients and no more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import aot
import jax
from device_rates import DEVICES, reduce_time, step_time
from versus_torch import CASES

GIGA, MIB = 1e9, 2**20
BATCHES = {"caffenet": 128, "lenet": 64, "cifar10_quick": 100}  # others: 32
COUNTS = (8, 64, 1024)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints three tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="nets, with commas between")
    parser.add_argument("--pod", default="v5e:2x4", help="topology to compile for")
    flags = parser.parse_args(argv)
    # The default is one bf16 product; "parity" only changes the rate.
    jax.config.update("jax_default_matmul_precision", "default")
    pod = aot.open_topology(flags.pod)
    shapes = {case.name: case.shape for case in CASES}
    programs = {}
    for name in flags.only.split(",") if flags.only else shapes:
        path = f"prototxt/{name}/train_val.prototxt"
        programs[name] = aot.compile_step(path, _batch(name), shapes[name], pod)
        print(f"{name}: {programs[name]}", file=sys.stderr, flush=True)
    print_times(programs)
    print_scaling(programs)
    print_compiled(programs, flags.pod, len(pod))


def print_times(programs: dict[str, aot.Program]) -> None:
    """Prints ms per image on one device, and what limits it."""
    columns = [(d, p) for d in DEVICES for p in d.flops]
    print(
        "Milliseconds per image of a training step, at least (c: arithmetic, m: "
        "memory is the limit)\n"
    )
    heads = " | ".join(f"{d.name}, {p}" for d, p in columns)
    print(f"| net | batch | GFLOP/image | MB/image | {heads} |")
    print("|---" * (len(columns) + 4) + "|")
    for name, program in programs.items():
        batch = _batch(name)
        cells = []
        for device, precision in columns:
            time = step_time(device, precision, program.flops, program.bytes)
            is_memory = time > program.flops / device.flops[precision]
            cells.append(f"{time / batch * 1e3:.4f} {'m' if is_memory else 'c'}")
        print(
            f"| {name} | {batch} | {program.flops / batch / GIGA:.2f} | "
            f"{program.bytes / batch / 1e6:.1f} | {' | '.join(cells)} |"
        )


def print_scaling(programs: dict[str, aot.Program]) -> None:
    """Prints which share of n times one device's speed n devices keep."""
    print(
        "\nShare of the speed that is left on n devices with the same batch on each, "
        "summing beside nothing / beside the backward pass\n"
    )
    columns = [(d, p, n) for d in DEVICES for p in d.flops for n in COUNTS]
    chosen = [c for c in columns if c[1] == "fast" or c[0].name == "K40"]
    heads = " | ".join(f"{d.name}, {n}" for d, _, n in chosen)
    print(f"| net | MB summed | {heads} |")
    print("|---" * (len(chosen) + 2) + "|")
    for name, program in programs.items():
        cells = []
        for device, precision, count in chosen:
            alone = step_time(device, precision, program.flops, program.bytes)
            summing = reduce_time(device, program.parameters, count)
            apart = alone / (alone + summing)
            # Gradients come up during two thirds of the step.
            beside = alone / (alone + max(0.0, summing - 2 / 3 * alone))
            cells.append(f"{100 * apart:.0f} / {100 * beside:.0f} %")
        print(f"| {name} | {program.parameters / 1e6:.1f} | {' | '.join(cells)} |")


def print_compiled(programs: dict[str, aot.Program], pod: str, chips: int) -> None:
    """Prints what the compiler says of each chip of the pod."""
    print(f"\nCompiled for {chips} chips, {pod}; of each chip:\n")
    print(
        "| net | images | weights, history, batch, MiB | temporary, MiB | "
        "summed over chips, MiB | weights, MiB |"
    )
    print("|---|---|---|---|---|---|")
    for name, found in programs.items():
        print(
            f"| {name} | {_batch(name)} | {found.arguments / MIB:.0f} | "
            f"{found.temporary / MIB:.0f} | {found.reduced / MIB:.1f} | "
            f"{found.parameters / MIB:.1f} |"
        )


def _batch(name: str) -> int:
    return BATCHES.get(name, 32)


if __name__ == "__main__":
    main()
