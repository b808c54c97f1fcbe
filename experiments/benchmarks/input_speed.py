"""Images per second of reading for training: jaxcaffe against PyTorch, by turns.

  python experiments/benchmarks/input_speed.py
  python experiments/benchmarks/input_speed.py --images=FOLDER_OF_JPEGS --only=jpeg

lmdb: a database of 256 x 256 pixels, as Caffe's ImageNet example makes it: read, cut to
  227 x 227 at random, half mirrored, mean subtracted, batches of 32 float32 images.
jpeg: JPEG files, resized to 256 x 256, then the same.

Ours is a Data or ImageData layer with its transform_param on the device; theirs a
DataLoader (torch_reader.py). Both have the same cores, and as many readers (threads
here, processes there) as there are cores. Each is a process of its own; turns.py lets
them run in turn. Needs `pip install -e '.[bench]'`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Sequence

from sample_data import find_images, write_list, write_lmdb
from turns import Turns, Worker, alternate, ratio

MIB = 2**20
SIZE, CROP, BATCH, RECORDS = 256, 227, 32, 2000
LAYER = """
layer {{ name: "data" type: "{type}" top: "data" top: "label"
  transform_param {{
    crop_size: {crop} mirror: true mean_value: 104 mean_value: 117 mean_value: 123
  }}
  {param}
}}
"""
PARAMS = {
    "lmdb": 'data_param {{ source: "{source}" batch_size: {batch} backend: LMDB }}',
    "jpeg": (
        'image_data_param {{ source: "{source}" batch_size: {batch} shuffle: true '
        "new_height: {size} new_width: {size} }}"
    ),
}
# Of a turn: many more than are read ahead while the other one runs.
BATCHES = {"lmdb": 150, "jpeg": 40}
TYPES = {"lmdb": "Data", "jpeg": "ImageData"}


def measure(kind: str, source: str, flags: argparse.Namespace) -> list[Turns]:
    """Returns the turns of both."""
    cores = sorted(os.sched_getaffinity(0))[: flags.threads]
    numbers = {"size": SIZE, "crop": CROP, "batch": BATCH}
    param = PARAMS[kind].format(source=source, **numbers)
    task = {
        **numbers,
        "kind": kind,
        "source": source,
        "layer": LAYER.format(type=TYPES[kind], crop=CROP, param=param),
        "readers": flags.readers or len(cores),
        "processes": flags.processes,
        "prefetch": flags.prefetch,
    }
    workers: list[Worker] = []
    try:
        for script in ("our_reader.py", "torch_reader.py"):
            workers.append(Worker(script, task, cores))
            workers[-1].wait()
        return alternate(workers, flags.rounds, flags.batches or BATCHES[kind])
    finally:
        for worker in workers:
            worker.close()


def main(argv: Sequence[str] | None = None) -> None:
    """Makes the data, measures, prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("", *PARAMS), default="")
    parser.add_argument("--images", default="", help="folder of JPEG files")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each")
    parser.add_argument("--batches", type=int, default=0, help="of a turn")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--readers", type=int, default=0, help="0: one for each core")
    parser.add_argument("--processes", type=int, default=0, help="of ours")
    parser.add_argument("--prefetch", type=int, default=4, help="batches read ahead")
    flags = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        images = find_images(flags.images, folder)
        sources = {name: os.path.join(folder, name) for name in ("jpeg", "lmdb")}
        write_list(images, RECORDS, sources["jpeg"])
        if flags.only != "jpeg":
            write_lmdb(sources["jpeg"], sources["lmdb"], SIZE)
        print(f"{flags.threads} cores, medians of {flags.rounds} turns")
        print(
            "| input | ours, images/s | PyTorch, images/s | ratio | of single turns |"
        )
        print("|---|---|---|---|---|", flush=True)
        for kind in [flags.only] if flags.only else list(PARAMS):
            ours, theirs = measure(kind, sources[kind], flags)
            rates = [BATCH / statistics.median(t.seconds) for t in (ours, theirs)]
            middle, least, most = ratio(theirs, ours)  # of times: of rates, inverted
            print(
                f"| {kind} | {rates[0]:.0f} | {rates[1]:.0f} | {middle:.2f} | "
                f"{least:.2f}-{most:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
