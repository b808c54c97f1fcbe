"""Computes the mean image of a database: `compute_image_mean DB [OUT.binaryproto]`.

Follows tools/compute_image_mean.cpp of Caffe.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxcaffe.data import database, datum
from jaxcaffe.errors import ConfigError, DataError, describe, plural
from jaxcaffe.progress import show_progress
from jaxcaffe.proto.binary import write_blob
from jaxcaffe.tools import cli

DESCRIPTION = """\
Averages all images of DB, pixel by pixel and channel by channel, and prints the mean
of each channel. With OUT the mean image is written there, for transform_param {
mean_file }. All images must have one size."""

_BLOCK_RECORDS = 64  # at most 2**24: sums of bytes then fit in 32 bits
_BLOCK_BYTES = 16 << 20
_IN_FLIGHT_PER_THREAD = 2


class Block(NamedTuple):
    """The sum of some records that follow one another."""

    total: np.ndarray  # (C, H, W) uint32, or float64 if a record holds floats
    records: int
    key: bytes  # of the first record
    encoded: bool  # whether the first record was


Records = list[tuple[bytes, bytes]]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: the arguments without the program's name; None takes the process's.

    Returns:
      0.

    Raises:
      CaffeError: wrong flags, OUT exists, no database, records that do not fit.
    """
    parser = cli.Parser("compute_image_mean", DESCRIPTION)
    parser.argument("DB", "the database of images")
    parser.argument("OUT", "the file to make, as mean.binaryproto", nargs="?")
    parser.flag("backend", "lmdb", "kind of database", choices=database.BACKENDS)
    parser.flag("overwrite", False, "replace OUT if it exists")
    parser.flag("threads", cli.count_cores(), "blocks of images summed at a time")
    flags = parser.parse(argv)
    if flags.threads < 1:
        raise ConfigError(
            describe("compute_image_mean", f"--threads is {flags.threads}", "1 or more")
        )
    if flags.OUT is not None:
        if os.path.lexists(flags.OUT):
            with database.open_database(flags.DB, flags.backend):
                pass  # What is wrong with DB is told before that OUT is there.
        # Before the work, which may take an hour.
        cli.refuse_existing(flags.OUT, flags.overwrite)
        folder = os.path.dirname(flags.OUT) or "."
        if not os.path.isdir(folder):
            raise ConfigError(
                describe(flags.OUT, f"its folder {folder} does not exist")
            )

    mean = compute_mean(flags.DB, flags.backend, flags.threads)
    if flags.OUT is not None:
        cli.say(f"Write to {flags.OUT}")
        cli.refuse_existing(flags.OUT, flags.overwrite)
        write_blob(flags.OUT, mean[np.newaxis])
    cli.say(f"Number of channels: {len(mean)}")
    cli.say(
        "Values in units of the stored pixels (bytes: grey levels, 0 to 255); channels "
        "as stored (colour: 0 blue, 1 green, 2 red)."
    )
    for channel, plane in enumerate(mean):
        value = float(plane.mean(dtype=np.float64))
        cli.say(f"mean_value channel [{channel}]: {value:.6g}")
    return 0


def compute_mean(path: str, backend: str = "lmdb", threads: int = 1) -> np.ndarray:
    """Returns the mean of all records of a database.

    mean[c, h, w] = (1 / count) * sum over records of data[c, h, w]

    Args:
      path: the database; encoded images are decoded as they are stored.
      backend: "lmdb" or "leveldb".
      threads: blocks of records summed at a time; does not change the result.

    Returns:
      (C, H, W) float32 in the units of the records: grey levels 0 to 255 for bytes.

    Raises:
      DataError: no or an empty database, a broken record, records of different sizes.

    Source: caffe/tools/compute_image_mean.cpp. Differs: sums exactly (Caffe adds in
    float32, which rounds beyond 2**24, some 65,000 bright images); compares shapes, not
    only their products.
    """
    total: np.ndarray | None = None
    count = 0
    first = b""

    def sum_up(records: Records) -> Block:
        return sum_block(records, path)

    with database.open_database(path, backend) as opened:
        cli.say(f"Opened {backend} {path}")
        with show_progress("Averaging images", opened.length, every=10000) as advance:
            blocks = cli.map_in_order(
                sum_up, _split(opened.records), threads, _IN_FLIGHT_PER_THREAD
            )
            for block in blocks:
                if total is None:
                    if block.encoded:
                        cli.say("Decoding Datum")
                    cli.say("Starting iteration")
                    # Integers stay exact in float64 up to 2**53.
                    total = np.zeros(block.total.shape, np.float64)
                    first = block.key
                if block.total.shape != total.shape:
                    raise _different(
                        path, block.key, block.total.shape, first, total.shape
                    )
                total += block.total
                count += block.records
                advance(block.records)
            if total is None:
                raise DataError(describe(path, "holds no records"))
    return (total / count).astype(np.float32)


def sum_block(records: Records, path: str) -> Block:
    """Returns the sum of a few records, which must have one shape.

    Args:
      records: keys and serialised Datums; at least one, at most 2**24.
      path: the database, for messages.
    """
    total = np.zeros((), np.uint32)
    encoded = False
    for index, (key, value) in enumerate(records):
        record = datum.read_datum(value, key, source=path)
        if index == 0:
            total = np.zeros(record.data.shape, np.uint32)
            encoded = record.encoded
        elif record.data.shape != total.shape:
            raise _different(path, key, record.data.shape, records[0][0], total.shape)
        if record.data.dtype != np.uint8:
            total = total.astype(np.float64, copy=False)
        total += record.data
    return Block(total, len(records), records[0][0], encoded)


def _split(records: Iterable[tuple[bytes, bytes]]) -> Iterator[Records]:
    """Cuts the records into lists that are worth a thread's while and fit in memory."""
    block: Records = []
    size = 0
    for record in records:
        block.append(record)
        size += len(record[1])
        if len(block) == _BLOCK_RECORDS or size >= _BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _different(
    path: str,
    key: bytes,
    shape: tuple[int, ...],
    first: bytes,
    first_shape: tuple[int, ...],
) -> DataError:
    return DataError(
        describe(
            datum.describe_record(key, path),
            f"is {_show_shape(shape)}, but {datum.describe_record(first)} is "
            f"{_show_shape(first_shape)}",
            "one size; convert_imageset --resize_height=H --resize_width=W gives it",
        )
    )


def _show_shape(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{plural(channels, 'channel')} of {height} x {width}"


if __name__ == "__main__":
    cli.run(main)
