"""Brings large files to the disk beside a training run, at little cost to it.

Takes the place of the plain writes in caffe/src/caffe/util/io.cpp.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import BinaryIO

PIECE = 16 << 20
"""Bytes of a file that may wait in memory for the disk."""


def write_pieces(file: BinaryIO, chunks: Iterable[bytes | memoryview]) -> None:
    """Writes chunks one after the other, each piece of them down to the disk.

    Otherwise a snapshot lies in memory as a whole until it is synced: that drives out
    the data set that the run reads, and costs more processor time to find the room
    than to write.

    Args:
      file: open for writing.
      chunks: of any length; large ones are not copied.

    Raises:
      OSError: the disk refuses.
    """
    waiting = 0
    for chunk in chunks:
        view = memoryview(chunk).cast("B")
        for start in range(0, len(view), PIECE):
            waiting += file.write(view[start : start + PIECE])
            if waiting >= PIECE:
                file.flush()
                sync(file.fileno())
                waiting = 0


def sync(handle: int) -> None:
    """Returns once a file is on the disk, and lets the memory go that held it.

    Args:
      handle: of an open file or, on Linux, folder.

    Raises:
      OSError: the disk refuses.
    """
    os.fsync(handle)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
