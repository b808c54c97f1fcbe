"""What a snapshot costs a training run that goes on beside it.

A run of steps with a snapshot at its start is timed against as many steps without one,
by turns, in one process. The cost is the call itself (finite check, copy, hand-over)
plus what every step lasts longer until the snapshot is on disk and beyond. Inputs are
random numbers that lie on the device, so that no reading of records is timed.

  python experiments/benchmarks/snapshot_stall.py [--net=NET] [--batch=32] [--rounds=5]

On 2 cores of a virtual machine (AMD EPYC), CaffeNet at batch 32, in four runs: a step
takes 430 to 460 ms, a snapshot with Caffe's files costs 0.54 to 0.81 steps, of which
the call takes 0.09, and 0.48 steps without those files. Turns without a snapshot differ
by up to a step among themselves where the machine has other work.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from jaxcaffe import checkpoint, cpu
from jaxcaffe.caffe_files import snapshots as caffe_snapshots
from jaxcaffe.net import graph, translate
from jaxcaffe.net.params import decay_mults, lr_mults, trainable
from jaxcaffe.profiling.from_net import feed_structs, make_feeds
from jaxcaffe.proto import caffe_pb2, text, upgrade
from jaxcaffe.solver import build, schedule
from jaxcaffe.spec import Blobs, Net
from jaxcaffe.state import TrainState, find_non_finite, init_state
from jaxcaffe.step import StepReport, make_train_step

NET = "prototxt/caffenet/train_val.prototxt"
SOLVER = """
base_lr: 1e-6 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.0005
snapshot_prefix: "stall"
"""
MS, MIB = 1e3, 2**20

Step = Callable[[TrainState], tuple[TrainState, StepReport]]
Save = Callable[[TrainState], None]


class Turn(NamedTuple):
    """Some steps, one after another."""

    call: float  # seconds that the call for the snapshot took; 0 without one
    steps: list[float]  # seconds per step
    wall: float  # seconds until the last step was done and the snapshot on disk
    cpu: float  # seconds of processor time that all threads took for it
    peak: float  # bytes: most memory that the process held


def open_net(path: str, batch: int, shape: tuple[int, ...] | None) -> Net:
    """Builds the TRAIN net with another batch_size."""
    parameter, source = text.read_net(path)
    parameter = upgrade.upgrade_net(parameter, source)
    for layer in parameter.layer:
        for field, message in layer.ListFields():
            if field.name.endswith("data_param"):
                message.batch_size = batch
        if shape is None and layer.transform_param.crop_size:
            shape = (3, *[layer.transform_param.crop_size] * 2)
    asked = caffe_pb2.NetState(phase=caffe_pb2.TRAIN)
    built = graph.build_graph(parameter, asked, source)
    return translate.build_net(built, feed_structs(built, caffe_pb2.TRAIN, shape))


def make_run(net: Net, solver: caffe_pb2.SolverParameter) -> tuple[Step, TrainState]:
    """Returns a compiled step on random inputs, and the state to begin with."""
    tx = build.build_tx(solver, lr_mults(net), decay_mults(net), "")

    def no_augment(batch: Blobs, key: jax.Array) -> Blobs:
        return batch

    step = make_train_step(
        net=net,
        augment=no_augment,
        tx=tx,
        schedule=schedule.make_schedule(solver, ""),
        trainable=trainable(net),
        iter_size=1,
    )
    feeds = make_feeds(net, jax.random.key(1))

    @jax.jit
    def fill(key: jax.Array) -> TrainState:
        params, stats = net.init(key)
        return init_state(params, stats, tx, key, 1)

    state = fill(jax.random.key(0))
    compiled = jax.jit(step, donate_argnums=0).lower(state, feeds).compile()
    return lambda state: compiled(state, feeds), state


def run_turn(
    step: Step, state: TrainState, count: int, save: Save | None, is_done: Save
) -> tuple[Turn, TrainState]:
    """Runs `count` steps, after a snapshot of the state if `save` is given."""
    reset_peak()
    begin, begin_cpu = time.perf_counter(), time.process_time()
    if save is not None:
        save(state)
    call = time.perf_counter() - begin if save is not None else 0.0
    times = []
    for _ in range(count):
        start = time.perf_counter()
        state, report = step(state)
        jax.block_until_ready((state, report))
        times.append(time.perf_counter() - start)
    peak = read_peak()
    is_done(state)
    wall, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
    return Turn(call, times, wall, cpu, peak), state


def reset_peak() -> None:
    """Forgets the most memory that the process held so far (Linux)."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def read_peak() -> float:
    """Returns the most memory that the process held, in bytes (Linux)."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the medians over all rounds, and what each turn took."""
    cpu.tune_cpu()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", default=NET)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--shape", default="", help="C,H,W; default 3 and crop_size")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=None, help="a folder on the disk to write")
    parser.add_argument(
        "--caffe",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also write Caffe's files, as runs do unless told otherwise",
    )
    flags = parser.parse_args(argv)
    shape = tuple(int(n) for n in flags.shape.split(",")) if flags.shape else None
    solver = text.parse_solver(SOLVER, "")[0]
    net = open_net(flags.net, flags.batch, shape)
    step, state = make_run(net, solver)
    with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
        solver.snapshot_prefix = os.path.join(folder, "caffe")
        writer = checkpoint.open_writer(os.path.join(folder, "snapshots"), 1)
        caffe = caffe_snapshots.open_writer(net, solver, 0) if flags.caffe else None

        def save(state: TrainState) -> None:
            # As the loop does it.
            assert find_non_finite(state) is None
            copied = checkpoint.copy_state(state)
            writer.save(copied, {})
            if caffe is not None:
                caffe.save(copied, None)

        def wait(state: TrainState) -> None:
            failure = writer.wait() or (caffe.wait() if caffe is not None else None)
            if failure is not None:
                raise failure

        # The first of each compiles; it also tells how many steps a turn must have.
        plain, state = run_turn(step, state, 3, None, wait)
        turn, state = run_turn(step, state, 1, save, wait)
        turn, state = run_turn(step, state, 1, save, wait)
        usual = statistics.median(plain.steps)
        count = 2 + int(turn.wall / usual)
        turns: dict[bool, list[Turn]] = {False: [], True: []}
        for number in range(2 * flags.rounds):
            # Each kind goes first as often as the other.
            with_snapshot = number % 4 in (1, 2)
            turn, state = run_turn(
                step, state, count, save if with_snapshot else None, wait
            )
            turns[with_snapshot].append(turn)
        writer.close()
        if caffe is not None:
            caffe.close()
    print_report(flags, state, count, turns[False], turns[True])


def print_report(
    flags: argparse.Namespace,
    state: TrainState,
    count: int,
    plain: list[Turn],
    saving: list[Turn],
) -> None:
    """Prints what was measured, each number with its unit."""
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    device = jax.devices()[0]
    usual = statistics.median(t for turn in plain for t in turn.steps)
    call = statistics.median(turn.call for turn in saving)
    slower = statistics.median(sum(turn.steps) - count * usual for turn in saving)
    noise = [sum(turn.steps) - count * usual for turn in plain]
    cost = call + slower
    print(
        f"{flags.net}, batch {flags.batch}, {device.device_kind}, "
        f"{os.cpu_count()} cores; state of {size / MIB:.0f} MiB"
        + (", Caffe's files besides" if flags.caffe else "")
    )
    print(f"medians of {len(saving)} turns of {count} steps with a snapshot each, and")
    print(f"of {len(plain)} turns of {count} steps without, by turns")
    print(f"a step without a snapshot    {usual * MS:9.1f} ms")
    print(
        f"the call for a snapshot      {call * MS:9.1f} ms   {call / usual:6.2f} steps"
    )
    print(
        f"all steps together slower by {slower * MS:9.1f} ms   "
        f"{slower / usual:6.2f} steps"
    )
    print(
        f"a snapshot costs             {cost * MS:9.1f} ms   {cost / usual:6.2f} steps"
    )
    print(
        f"turns without one differ by  {min(noise) * MS:9.1f} to {max(noise) * MS:.1f} "
        f"ms   {min(noise) / usual:.2f} to {max(noise) / usual:.2f} steps"
    )
    cpu = statistics.median(t.cpu for t in saving) - statistics.median(
        t.cpu for t in plain
    )
    step_cpu = statistics.median(t.cpu for t in plain) / count
    print(
        f"processor time for it        {cpu * MS:9.1f} ms   {cpu / step_cpu:6.2f} steps"
    )
    for title, turns in (("without", plain), ("with", saving)):
        peak = max(turn.peak for turn in turns)
        print(f"peak memory {title} snapshots {peak / MIB:9.0f} MiB")
    for turn in saving:
        shown = " ".join(f"{t * MS:.0f}" for t in turn.steps)
        print(f"  call {turn.call * MS:.0f} ms, steps {shown} ms")


if __name__ == "__main__":
    main()
