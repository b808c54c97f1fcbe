"""What is profiled: a net with inputs, and the programs that run it as a whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from jaxcaffe.prefetch import DeviceFeed
from jaxcaffe.profiling.timing import Compiled, Cost, compile_program, time_call
from jaxcaffe.spec import Blobs, Net, Params, Stats

Arguments = tuple[Any, ...]


class Program(NamedTuple):
    """A function that runs the whole net, before it is compiled."""

    title: str
    jitted: Any  # from jax.jit
    arguments: Arguments  # of the first call; some may be used up by it
    # (arguments, what the call gave, next batch) -> arguments of the next call; None
    # when every call is the same
    advance: Callable[[Arguments, Any, Blobs], Arguments] | None = None
    batch: Blobs | None = None  # of the first call
    feed: DeviceFeed | None = None  # gives the further batches
    read_ahead: int = 0  # batches that may lie ready before anyone asks
    # XLA counts the body of a loop once: what its further rounds cost
    add_cost: Callable[[Cost], Cost] = lambda cost: cost


class Subject(NamedTuple):
    """Everything that a profile looks at."""

    path: str  # of the net or the config
    net: Net
    params: Params
    stats: Stats
    feeds: Blobs  # float32 tops of the feed layers
    key: jax.Array
    images: int  # per call of a program, over all devices
    devices: int
    precision: str
    # iterations -> row of the table -> ms per batch
    time_feeds: Callable[[int], Mapping[str, float]]
    programs: tuple[Program, ...]
    close: Callable[[], None]


class ProgramTimes(NamedTuple):
    """Mean durations of one call, in ms."""

    resident: float  # its batch lies on the device already
    fed: float | None  # batches come from the feed, as in training; None without one


def compile_subject_program(program: Program) -> Compiled:
    """Compiles a program; its cost includes all rounds of its loops."""
    made = compile_program(program.jitted, *program.arguments)
    return made._replace(cost=program.add_cost(made.cost))


def time_program(
    program: Program, call: Callable[..., Any], iterations: int
) -> tuple[ProgramTimes, Arguments]:
    """Times a compiled program, first on one batch, then on those of its feed.

    Args:
      program: as compiled.
      call: the compiled program.
      iterations: calls that each mean is taken over.

    Returns:
      The times, and arguments for a further call.
    """
    arguments = program.arguments
    if program.advance is None:
        return ProgramTimes(time_call(lambda: call(*arguments), iterations), None), (
            arguments
        )
    arguments = run_program(program, call, arguments, 1, fed=False)
    begin = time.perf_counter()
    arguments = run_program(program, call, arguments, iterations, fed=False)
    resident = (time.perf_counter() - begin) / iterations * 1e3
    if program.feed is None:
        return ProgramTimes(resident, None), arguments
    # Batches that were read while the device was busy would flatter the reader.
    for _ in range(program.read_ahead):
        next(program.feed)
    arguments = run_program(program, call, arguments, 1, fed=True)
    begin = time.perf_counter()
    arguments = run_program(program, call, arguments, iterations, fed=True)
    fed = (time.perf_counter() - begin) / iterations * 1e3
    return ProgramTimes(resident, fed), arguments


def run_program(
    program: Program,
    call: Callable[..., Any],
    arguments: Arguments,
    iterations: int,
    fed: bool,
) -> Arguments:
    """Calls a compiled program some times, waits for the last call only.

    Args:
      program: as compiled.
      call: the compiled program.
      arguments: of the first call.
      iterations: how many calls.
      fed: take batches from the feed, if it has one.

    Returns:
      Arguments for a further call.
    """
    result: Any = None
    for _ in range(iterations):
        result = call(*arguments)
        if program.advance is not None:
            feed = program.feed if fed else None
            batch = program.batch if feed is None else next(feed)
            assert batch is not None, program.title
            arguments = program.advance(arguments, result, batch)
    jax.block_until_ready(result)
    return arguments
