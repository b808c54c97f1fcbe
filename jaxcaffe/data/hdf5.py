"""Rows of HDF5 files by index, as if the files were one long table.

Follows caffe/src/caffe/layers/hdf5_data_layer.cpp and util/hdf5.cpp.
"""

from __future__ import annotations

import collections
import os
import threading
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np

from jaxcaffe.errors import DataError, describe, nearest

# Caffe holds one whole file in memory. A file larger than a block is read and shuffled
# in blocks, so that memory stays bounded: at most CACHED_BYTES, or two blocks.
BLOCK_BYTES = 256 << 20
CACHED_BYTES = 1 << 30


class Hdf5Source:
    """Random access to the rows of the datasets of several HDF5 files.

    `source[i]` is {top: (...) float32 row i of the dataset of that name}, rows counted
    through the files in the order given. `groups` holds the number of rows of each
    block that is read at once (a file, unless it is huge); a shuffle permutes blocks,
    and rows inside blocks, as Caffe permutes files.

    Args:
      paths: HDF5 files.
      tops: names of the datasets to read from each.

    Raises:
      DataError: a file is missing or no HDF5 file, lacks a dataset, or a dataset holds
        no numbers, has no axis, another number of rows than its neighbour, or rows of
        another shape than in the first file.

    Source: caffe/src/caffe/layers/hdf5_data_layer.cpp LoadHDF5FileData. Differs: every
    file is checked when the source opens, not when its turn comes; rows of another
    shape are an error, where Caffe copies what lies in memory.
    """

    def __init__(self, paths: Sequence[str], tops: Sequence[str]) -> None:
        self._tops = tuple(tops)
        self._blocks: list[tuple[str, int, int]] = []  # path, first row, end row
        self._shapes: dict[str, tuple[int, ...]] = {}
        for path in paths:
            self._add(path)
        if not self._blocks:
            raise DataError(describe(", ".join(paths), "the files hold no row"))
        self.groups: tuple[int, ...] | None = tuple(
            end - first for _, first, end in self._blocks
        )
        self._ends = np.cumsum(self.groups)
        self._num_files = len(paths)
        self._start_cache()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Returns {top: (...) float32} of row `index`."""
        block = int(np.searchsorted(self._ends, index, side="right"))
        row = index - (int(self._ends[block - 1]) if block else 0)
        return {top: array[row] for top, array in self._read(block).items()}

    def key(self, index: int) -> str:
        """Returns file and row, for messages."""
        block = int(np.searchsorted(self._ends, index, side="right"))
        path, first, _ = self._blocks[block]
        start = int(self._ends[block - 1]) if block else 0
        return f"{path} row {first + index - start}"

    def __repr__(self) -> str:
        return f"HDF5, {self._num_files} files ({len(self)} rows)"

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["_lock"], state["_cache"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_cache()

    def _start_cache(self) -> None:
        self._lock = threading.Lock()
        self._cache: collections.OrderedDict[int, dict[str, np.ndarray]] = (
            collections.OrderedDict()
        )

    def _add(self, path: str) -> None:
        with _open(path) as file:
            rows = None
            for top in self._tops:
                dataset = _find_dataset(file, path, top)
                if rows is None:
                    rows = dataset.shape[0]
                if dataset.shape[0] != rows:
                    raise DataError(
                        describe(
                            path,
                            f'dataset "{top}" has {dataset.shape[0]} rows, '
                            f'"{self._tops[0]}" has {rows}',
                            "datasets with one number of rows",
                        )
                    )
                shape = self._shapes.setdefault(top, dataset.shape[1:])
                if shape != dataset.shape[1:]:
                    raise DataError(
                        describe(
                            path,
                            f'rows of dataset "{top}" have shape {dataset.shape[1:]}, '
                            f"in the first file {shape}",
                            "files with rows of one shape",
                        )
                    )
        row_bytes = 4 * sum(int(np.prod(s)) for s in self._shapes.values())
        step = max(1, BLOCK_BYTES // max(1, row_bytes))
        rows = rows or 0
        for first in range(0, rows, step):
            self._blocks.append((path, first, min(rows, first + step)))

    def _read(self, block: int) -> dict[str, np.ndarray]:
        # The lock is held while a block loads: other threads will want the same one.
        with self._lock:
            arrays = self._cache.get(block)
            if arrays is None:
                path, first, end = self._blocks[block]
                with _open(path) as file:
                    arrays = {
                        top: np.asarray(
                            _find_dataset(file, path, top)[first:end], np.float32
                        )
                        for top in self._tops
                    }
                self._cache[block] = arrays
                while len(self._cache) > 2 and _bytes(self._cache) > CACHED_BYTES:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(block)
            return arrays


def read_hdf5_list(path: str) -> list[str]:
    """Returns the file names in a text file, separated by blanks or line ends.

    Raises:
      DataError: the list is missing or names no file.

    Source: caffe/src/caffe/layers/hdf5_data_layer.cpp LayerSetUp. Differs: none.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            names = file.read().split()
    except OSError as error:
        raise DataError(
            describe(
                path,
                f"the list of HDF5 files cannot be read ({error.strerror})",
                "a text file with one HDF5 file name a line",
            )
        ) from error
    if not names:
        raise DataError(describe(path, "the list names no HDF5 file"))
    return names


def _open(path: str) -> h5py.File:
    if not os.path.exists(path):
        raise DataError(describe(path, "no such HDF5 file"))
    try:
        # No file locking: the file is only read, perhaps on a shared file system.
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise DataError(
            describe(path, f"cannot be opened as an HDF5 file ({error})")
        ) from error


def _find_dataset(file: h5py.File, path: str, top: str) -> h5py.Dataset:
    dataset = file.get(top)
    if not isinstance(dataset, h5py.Dataset):
        raise DataError(
            describe(path, f'no dataset named "{top}", a top', nearest(top, file))
        )
    if dataset.dtype.kind not in "iuf":
        raise DataError(
            describe(
                path,
                f'dataset "{top}" holds {_kind(dataset)}',
                "integers or floating-point numbers",
            )
        )
    if not dataset.shape:
        raise DataError(
            describe(path, f'dataset "{top}" is a single value', "at least one axis")
        )
    return dataset


def _kind(dataset: h5py.Dataset) -> str:
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return "text"
    return f"values of type {dataset.dtype}"


def _bytes(cache: collections.OrderedDict[int, dict[str, np.ndarray]]) -> int:
    return sum(a.nbytes for arrays in cache.values() for a in arrays.values())
