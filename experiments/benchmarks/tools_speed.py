"""Images per second of convert_imageset and compute_image_mean.

convert_imageset with a resize to 256 x 256 is measured against OpenCV alone, by turns:
one process for each core, each reading, decoding and resizing its share of the files,
and storing nothing. So 1 means that the rest costs nothing; less is not to be had with
OpenCV's decoder.

  python experiments/benchmarks/tools_speed.py [--images=FOLDER]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Sequence

from sample_data import find_images, write_list, write_lmdb
from turns import Worker, alternate, ratio

SIZE = 256


def main(argv: Sequence[str] | None = None) -> None:
    """Makes the images, measures, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", default="", help="folder of JPEG files")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each")
    parser.add_argument("--count", type=int, default=1000, help="images of a turn")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    flags = parser.parse_args(argv)
    cores = sorted(os.sched_getaffinity(0))[: flags.threads]
    with tempfile.TemporaryDirectory() as folder:
        listed = os.path.join(folder, "list")
        database = os.path.join(folder, "lmdb")
        write_list(find_images(flags.images, folder), flags.count, listed)
        write_lmdb(listed, database, SIZE)
        task = {
            "list": listed,
            "folder": folder,
            "database": database,
            "size": SIZE,
            "threads": len(cores),
        }
        turns = []
        for kinds, steps in ((("convert", "opencv"), flags.count), (("mean",), 1)):
            workers = [
                Worker("tool_worker.py", {**task, "kind": kind}, cores)
                for kind in kinds
            ]
            for worker in workers:
                worker.wait()
            turns += alternate(workers, flags.rounds, steps)
            for worker in workers:
                worker.close()
    convert, opencv, mean = (statistics.median(turn.seconds) for turn in turns)
    middle, least, most = ratio(turns[1], turns[0])
    print(f"{len(cores)} cores, {flags.count} images, medians of {flags.rounds} turns")
    print(f"convert_imageset    {1 / convert:7.0f} images/s")
    print(f"OpenCV, no database {1 / opencv:7.0f} images/s")
    print(f"ratio               {middle:7.2f}, of single turns {least:.2f}-{most:.2f}")
    print(f"compute_image_mean  {flags.count / mean:7.0f} images/s of {SIZE} x {SIZE}")


if __name__ == "__main__":
    main()
