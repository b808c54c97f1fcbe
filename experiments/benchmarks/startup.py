"""Time from the start of a training process to the end of its first step.

Cold: with nothing compiled before. Warm: with what an earlier start has compiled.
Nothing is cleared from the system's memory of files. Each start is a process of
`python -m jaxcaffe.train` on an LMDB; the end of the first step is when its loss
appears in the log.

  python experiments/benchmarks/startup.py [--net=caffenet] [--rounds=3]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from sample_data import Case, write_training

CASES = {
    "caffenet": Case("caffenet", 32, 256, 3),
    "googlenet": Case("googlenet", 32, 256, 3),
    "lenet": Case("lenet", 64, 28, 1),
}
LINES = "display: 1 snapshot_after_train: false"


def time_start(solver: str, folder: str) -> float:
    """Returns seconds until the first loss."""
    home = os.path.join(folder, "home")
    environment = {**os.environ, "XDG_CACHE_HOME": home}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxcaffe.train", solver, "--overwrite"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stderr is not None
    seconds, seen = 0.0, []
    for line in process.stderr:
        seen.append(line)
        if not seconds and "Iteration 0 (" in line:
            seconds = time.perf_counter() - begin
    if process.wait() or not seconds:
        raise SystemExit("".join(seen))
    return seconds


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the medians of cold and warm starts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", choices=tuple(CASES), default="caffenet")
    parser.add_argument("--images", default="", help="folder of JPEG files")
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args(argv)
    found: dict[str, list[float]] = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as folder:
        solver = write_training(CASES[flags.net], folder, flags.images, LINES)
        for _ in range(flags.rounds):
            shutil.rmtree(os.path.join(folder, "home"), ignore_errors=True)
            for kind, times in found.items():
                times.append(time_start(solver, folder))
                print(f"{kind}: {times[-1]:.2f} s", flush=True)
    for kind, times in found.items():
        print(
            f"{flags.net}, {kind}: {statistics.median(times):.2f} s to the end of the "
            f"first step, median of {flags.rounds}"
        )


if __name__ == "__main__":
    main()
