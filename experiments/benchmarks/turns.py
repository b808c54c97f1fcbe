"""Two programs timed by turns, each in a process of its own.

What a machine does meanwhile changes from minute to minute, so both are started once,
warmed up, and then told in turn to run a few steps while the other one sleeps. Medians
over the turns, and their ratio, are what counts.

The one that measures makes `Worker`s; a worker's script ends in `serve`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

FOLDER = os.path.dirname(os.path.abspath(__file__))


class Turns(NamedTuple):
    """What came out for one of the two."""

    seconds: list[float]  # per step, one entry per turn
    memory: float  # bytes: most that the process held while it ran steps
    memory_ever: float  # bytes: most that it held from its start on


class Worker:
    """A process that waits to be told how many steps to run.

    Args:
      script: a file in this folder that calls `serve`.
      task: what it shall run; handed to the script as JSON.
      cores: processor cores that it may use.
      environment: variables to add.
    """

    def __init__(
        self,
        script: str,
        task: Mapping[str, Any],
        cores: Sequence[int],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        count = str(len(cores))
        threads = {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
        self._process = subprocess.Popen(
            [sys.executable, os.path.join(FOLDER, script), json.dumps(dict(task))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **threads, **(environment or {})},
        )
        os.sched_setaffinity(self._process.pid, cores)
        self._name = script

    def wait(self) -> None:
        """Returns when the script has warmed up."""
        self._read()

    def run(self, steps: int) -> float:
        """Returns the seconds that `steps` steps took together."""
        self._write({"steps": steps})
        return self._read()["seconds"]

    def reset_memory(self) -> None:
        """Starts a new record of the most memory held."""
        self._write({"reset": True})
        self._read()

    def memory(self) -> tuple[float, float]:
        """Returns the most bytes held since `reset_memory`, and since the start."""
        self._write({"memory": True})
        found = self._read()
        return found["recent"], found["ever"]

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _write(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(dict(message)) + "\n")
        self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._name} ended with {self._process.wait()}")
        return json.loads(line)


def serve(run: Callable[[int], None]) -> None:
    """Runs steps as a `Worker` asks for them, until it closes.

    Args:
      run: runs so many steps and returns when they are done; warmed up already.
    """
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints
    ever = read_peak()

    def answer(**values: float) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    answer(ready=1)
    for line in sys.stdin:
        asked = json.loads(line)
        if "steps" in asked:
            begin = time.perf_counter()
            run(asked["steps"])
            answer(seconds=time.perf_counter() - begin)
        elif "reset" in asked:
            ever = max(ever, read_peak())
            reset_peak()
            answer()
        else:
            recent = read_peak()
            ever = max(ever, recent)
            answer(recent=recent, ever=ever)


def alternate(workers: Sequence[Worker], rounds: int, steps: int) -> list[Turns]:
    """Lets warmed-up workers run by turns, each first as often as the others.

    Args:
      workers: as many as wanted.
      rounds: turns of each.
      steps: of each turn.

    Returns:
      For each worker what came out.
    """
    for worker in workers:
        worker.reset_memory()
    times: list[list[float]] = [[] for _ in workers]
    for number in range(rounds):
        order = list(range(len(workers)))
        turn = number % len(order)
        for index in order[turn:] + order[:turn]:
            times[index].append(workers[index].run(steps) / steps)
    return [
        Turns(found, *worker.memory())
        for found, worker in zip(times, workers, strict=True)
    ]


def count_steps(workers: Sequence[Worker], seconds: float) -> int:
    """Returns how many steps the slowest does in so many seconds; at least one."""
    slowest = max(worker.run(1) for worker in workers)
    steps = max(1, round(seconds / slowest))
    if steps > 1:  # a first step may still have had something to do
        slowest = max(worker.run(steps) / steps for worker in workers)
    return max(1, round(seconds / slowest))


def ratio(ours: Turns, theirs: Turns) -> tuple[float, float, float]:
    """Returns the ratio of the medians, and the least and greatest of single turns."""
    single = [a / b for a, b in zip(ours.seconds, theirs.seconds, strict=True)]
    medians = statistics.median(ours.seconds) / statistics.median(theirs.seconds)
    return medians, min(single), max(single)


def reset_peak() -> None:
    """Forgets the most memory that this process held so far (Linux)."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def read_peak() -> float:
    """Returns the most memory that this process held, in bytes (Linux)."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
