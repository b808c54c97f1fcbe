"""Records of an LMDB database by index, in the order of their keys.

Follows caffe/src/caffe/util/db_lmdb.cpp and data_layer.cpp.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import lmdb
import numpy as np

from jaxcaffe.data.datum import read_datum
from jaxcaffe.data.image import Decode
from jaxcaffe.errors import DataError, describe

Row = dict[str, np.ndarray]
"""What every source gives for one record: role or dataset name -> array."""

# LMDB refuses to open one environment twice in a process and must not be used across
# a fork, so environments are shared by (file, process) for as long as somebody holds
# them. The file's identity is part of the key: a database made anew under an old name
# is another one.
_environments: weakref.WeakValueDictionary[Any, lmdb.Environment] = (
    weakref.WeakValueDictionary()
)
_lock = threading.Lock()


class LmdbSource:
    """Random access to the Datum records of an LMDB database.

    `source[i]` is {"data": (C, H, W) uint8 or float32 pixels, BGR if colour; "label":
    () float32} of the i-th key in byte order, which is the order in which Caffe reads.
    Opening needs no lock and writes nothing, so any number of processes may read.

    Args:
      path: the database's folder, or its data file.
      decode: channels of encoded records.
      sequential: whether records will mostly be read in order. The system then reads
        the file ahead, which in any other order would only fill memory with records
        that nobody asked for. Sources of one file in one process share what the first
        of them chose, because LMDB opens a file once.

    Raises:
      DataError: no database at `path`, an empty one, or a record that is no Datum.

    Source: caffe/src/caffe/util/db_lmdb.cpp LMDB::Open, LMDBCursor. Differs: no reader
    lock is taken (a database must not be written while it is read).
    """

    groups: tuple[int, ...] | None = None

    def __init__(
        self, path: str, decode: Decode = "native", sequential: bool = True
    ) -> None:
        self.path = path
        self._decode = decode
        self._sequential = sequential
        self._held: tuple[int, lmdb.Environment] | None = None
        try:
            with self._environment().begin() as transaction:
                # Values stay on disk: with iternext(values=False) only the pages that
                # hold keys are read.
                self._keys = tuple(transaction.cursor().iternext(values=False))
        except lmdb.Error as error:
            raise DataError(
                describe(path, f"the LMDB database cannot be read ({error})")
            ) from error
        if not self._keys:
            raise DataError(describe(path, "the LMDB database holds no record"))

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Row:
        """Returns {"data": (C, H, W) uint8 or float32, "label": () float32}."""
        return next(self.read_many((index,)))

    def read_many(self, indices: Iterable[int]) -> Iterator[Row]:
        """Yields what `self[index]` is for each index, all in one transaction."""
        with self._environment().begin() as transaction:
            for index in indices:
                yield self._read(transaction, index)

    def key(self, index: int) -> str:
        """Returns the record's key as text, for messages."""
        return self._keys[index].decode("utf-8", "replace")

    def __repr__(self) -> str:
        return f"LMDB {self.path} ({len(self)} records)"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": None}

    def _read(self, transaction: lmdb.Transaction, index: int) -> Row:
        key = self._keys[index]
        try:
            value = transaction.get(key)
        except lmdb.Error as error:
            raise DataError(
                describe(
                    self.path, f'record "{self.key(index)}" cannot be read ({error})'
                )
            ) from error
        if value is None:
            raise DataError(
                describe(
                    self.path,
                    f'record "{self.key(index)}" is gone since the database was opened',
                )
            )
        return read_record(bytes(value), key, self._decode, self.path)

    def _environment(self) -> lmdb.Environment:
        held = self._held
        if held is None or held[0] != os.getpid():
            held = (os.getpid(), open_environment(self.path, self._sequential))
            self._held = held
        return held[1]


def open_environment(path: str, readahead: bool = True) -> lmdb.Environment:
    """Returns the process's one read-only environment of the database at `path`.

    Args:
      path: the database's folder, or its data file.
      readahead: whether the system reads the file ahead of what is asked for; decided
        by whoever opens it first.

    Raises:
      DataError: there is no LMDB database at `path`.
    """
    is_folder = os.path.isdir(path)
    file = os.path.join(path, "data.mdb") if is_folder else path
    try:
        status = os.stat(file)
    except OSError as error:
        raise DataError(
            describe(
                path,
                _missing(path),
                "the folder of an LMDB database, which holds a file data.mdb",
            )
        ) from error
    if not status.st_size:
        raise DataError(describe(path, "data.mdb is empty (0 bytes)"))
    key = (os.path.realpath(file), status.st_dev, status.st_ino, os.getpid())
    with _lock:
        environment = _environments.get(key)
        if environment is None:
            try:
                environment = _open(path, is_folder, readahead)
            except lmdb.Error as error:
                raise DataError(
                    describe(path, f"the LMDB database cannot be opened ({error})")
                ) from error
            _check_size(environment, path, status.st_size)
            _environments[key] = environment
        return environment


def _open(path: str, is_folder: bool, readahead: bool) -> lmdb.Environment:
    # An environment that a reading thread was the last to hold leaves _environments a
    # moment before LMDB has closed it.
    deadline = time.monotonic() + 2
    while True:
        try:
            return lmdb.open(
                path,
                subdir=is_folder,
                readonly=True,
                lock=False,
                readahead=readahead,
                max_spare_txns=32,
            )
        except lmdb.Error as error:
            if "already open" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.001)


def read_record(value: bytes, key: bytes, decode: Decode, path: str) -> Row:
    """Returns a Datum's {"data": (C, H, W) uint8 or float32, "label": () float32}."""
    record = read_datum(value, key, decode, path)
    return {"data": record.data, "label": np.asarray(record.label, np.float32)}


def _forget_environments() -> None:
    """Closes, in a forked child, what the parent opened, so that it can be reopened."""
    global _lock
    _lock = threading.Lock()  # another thread of the parent may have held it
    for environment in list(_environments.values()):
        environment.close()
    _environments.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_environments)


def _check_size(environment: lmdb.Environment, path: str, size: int) -> None:
    # LMDB maps the file; touching a page beyond its end would kill the process.
    pages = environment.info()["last_pgno"] + 1
    needed = pages * environment.stat()["psize"]
    if size < needed:
        raise DataError(
            describe(path, f"data.mdb is truncated: {size} bytes of at least {needed}")
        )


def _missing(path: str) -> str:
    if os.path.exists(os.path.join(path, "CURRENT")):
        return "this is a LevelDB database, not LMDB (backend: LEVELDB reads it)"
    if os.path.exists(path):
        return "no LMDB database here"
    return "no such file or folder"
