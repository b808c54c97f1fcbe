"""LMDB and LevelDB files written whole or not at all, and read in key order.

Follows src/caffe/util/db_lmdb.cpp and src/caffe/util/db_leveldb.cpp of Caffe.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import lmdb

from jaxcaffe.data.datum import describe_record
from jaxcaffe.data.leveldb_view import (
    close_view,
    import_plyvel,
    iterate,
    open_view,
)
from jaxcaffe.data.lmdb import open_environment
from jaxcaffe.errors import ConfigError, DataError, describe, nearest

BACKENDS = ("lmdb", "leveldb")
LMDB_MAX_KEY = 511
"""Bytes in the longest key that LMDB takes."""

_COMMIT_RECORDS = 1000  # as Caffe's tools
_COMMIT_BYTES = 16 << 20  # earlier where records are large: they wait in memory
_FIRST_MAP_BYTES = 64 << 20  # grows by doubling

Put = Callable[[bytes, bytes], None]
"""put(key, value)."""


class Database(NamedTuple):
    """A database open for reading."""

    length: int | None  # records; None where only reading them all would tell
    records: Iterator[tuple[bytes, bytes]]  # key and value, in the order of the keys


@contextmanager
def create_database(path: str, backend: str = "lmdb") -> Iterator[Put]:
    """Makes a new database, which appears at `path` when the block ends well.

    Until then everything lies in `path.partial-XXXXXXXX` beside it. An exception
    removes that; a killed process leaves it behind, and it can be deleted.

    Args:
      path: the folder to make; must not exist.
      backend: "lmdb" or "leveldb".

    Yields:
      `put(key, value)`; a key put again replaces the record.

    Raises:
      ConfigError: the path exists (it stays untouched), has no parent folder or may not
        be written; unknown backend; plyvel is missing.
      DataError: a key that the backend cannot hold; no room on the disk.

    Source: caffe/src/caffe/util/db_lmdb.cpp, LMDB::Open, LMDBTransaction::Commit;
    caffe/src/caffe/util/db_leveldb.cpp, LevelDB::Open. Differs: nothing is seen at
    `path` before all is written; large records are committed before there are 1000.
    """
    check_backend(backend)
    open_writer = _lmdb_writer if backend == "lmdb" else _leveldb_writer
    if backend == "leveldb":
        import_plyvel()
    path = path.rstrip("/") or path
    check_new(path)
    partial = f"{path}.partial-{secrets.token_hex(4)}"
    try:
        os.mkdir(partial)
    except OSError as error:
        raise _cannot_create(path, error) from None
    try:
        with open_writer(partial) as commit:
            pending: list[tuple[bytes, bytes]] = []
            waiting = 0

            def put(key: bytes, value: bytes) -> None:
                nonlocal waiting
                pending.append((key, value))
                waiting += len(value)
                if len(pending) >= _COMMIT_RECORDS or waiting >= _COMMIT_BYTES:
                    commit(pending)
                    pending.clear()
                    waiting = 0

            yield put
            commit(pending)
        check_new(path)
        for name in os.listdir(partial):
            _sync(os.path.join(partial, name))
        _sync(partial)
        try:
            os.rename(partial, path)
        except OSError as error:
            raise _cannot_create(path, error) from None
        _sync(os.path.dirname(path) or ".")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def open_database(path: str, backend: str = "lmdb") -> Iterator[Database]:
    """Opens a database for one pass over its records.

    Args:
      path: the folder.
      backend: "lmdb" or "leveldb".

    Raises:
      ConfigError: unknown backend; plyvel is missing.
      DataError: nothing there, another backend's files, truncated or corrupt.

    Source: caffe/src/caffe/util/db_lmdb.cpp, LMDBCursor; caffe/include/caffe/util/
    db_leveldb.hpp, LevelDBCursor. Differs: no file changes and no lock is taken, so a
    folder that cannot be written will do.
    """
    check_backend(backend)
    _check_kind(path, backend)
    with (_read_lmdb if backend == "lmdb" else _read_leveldb)(path) as database:
        yield database


def check_backend(backend: str) -> None:
    """Raises ConfigError unless the backend is one that Caffe knows."""
    if backend not in BACKENDS:
        raise ConfigError(
            describe(
                "", f'"{backend}" is no database backend', nearest(backend, BACKENDS)
            )
        )


def check_new(path: str) -> None:
    """Raises ConfigError when something stands at `path` or no folder can hold it."""
    if os.path.lexists(path):
        raise ConfigError(
            describe(path, "exists already, and is left as it is", "a new name")
        )
    parent = os.path.dirname(path.rstrip("/")) or "."
    if not os.path.isdir(parent):
        raise ConfigError(
            describe(path, f"its folder {parent} does not exist", "a folder that does")
        )


@contextmanager
def _lmdb_writer(path: str) -> Iterator[Callable[[list[tuple[bytes, bytes]]], None]]:
    # Nobody sees these files before they are complete, and then they are flushed.
    environment = lmdb.open(
        path, map_size=_FIRST_MAP_BYTES, sync=False, metasync=False, mode=0o664
    )

    def commit(records: list[tuple[bytes, bytes]]) -> None:
        while True:
            try:
                with environment.begin(write=True) as transaction:
                    for key, value in records:
                        try:
                            transaction.put(key, value)
                        except lmdb.BadValsizeError:
                            raise _bad_key(key) from None
                return
            except lmdb.MapFullError:
                environment.set_mapsize(2 * environment.info()["map_size"])

    try:
        yield commit
    except lmdb.Error as error:
        raise DataError(describe(path, f"cannot be written: {error}")) from None
    finally:
        environment.close()


def _bad_key(key: bytes) -> DataError:
    return DataError(
        describe(
            describe_record(key),
            f"the key has {len(key)} bytes",
            f"1 to {LMDB_MAX_KEY} bytes in an LMDB, or the backend leveldb",
        )
    )


@contextmanager
def _leveldb_writer(path: str) -> Iterator[Callable[[list[tuple[bytes, bytes]]], None]]:
    plyvel = import_plyvel()
    try:
        # Blocks of 64 KiB as in Caffe. A smaller write buffer than its 256 MiB loses
        # nothing, since the keys mostly come in order.
        database = plyvel.DB(
            path,
            create_if_missing=True,
            error_if_exists=True,
            block_size=65536,
            write_buffer_size=64 << 20,
            max_open_files=100,
        )
        try:

            def commit(records: list[tuple[bytes, bytes]]) -> None:
                with database.write_batch() as batch:
                    for key, value in records:
                        batch.put(key, value)

            yield commit
        finally:
            database.close()
    except plyvel.Error as error:
        raise DataError(describe(path, f"cannot be written: {error}")) from None


@contextmanager
def _read_lmdb(path: str) -> Iterator[Database]:
    environment = open_environment(path)
    try:
        yield Database(environment.stat()["entries"], _lmdb_records(environment))
    except lmdb.Error as error:
        raise DataError(describe(path, f"is corrupt: {error}")) from None


def _lmdb_records(environment: Any) -> Iterator[tuple[bytes, bytes]]:
    with environment.begin() as transaction, transaction.cursor() as cursor:
        yield from cursor


@contextmanager
def _read_leveldb(path: str) -> Iterator[Database]:
    view = open_view(path)
    try:
        yield Database(None, iterate(view))
    finally:
        close_view(view)


def _check_kind(path: str, backend: str) -> None:
    """Raises DataError unless the folder holds files of this backend."""
    if not os.path.isdir(path):
        what = "is a file" if os.path.exists(path) else "does not exist"
        raise DataError(describe(path, what, f"the folder of an existing {backend}"))
    found = [
        name
        for name, file in zip(BACKENDS, ("data.mdb", "CURRENT"), strict=True)
        if os.path.exists(os.path.join(path, file))
    ]
    if backend in found:
        return
    if found:
        raise DataError(
            describe(path, f"is not {backend} but {found[0]}", f"backend {found[0]}")
        )
    raise DataError(
        describe(
            path,
            "holds no database",
            "a folder with data.mdb (lmdb) or CURRENT (leveldb)",
        )
    )


def _cannot_create(path: str, error: OSError) -> ConfigError:
    return ConfigError(describe(path, f"cannot be created: {error.strerror}"))


def _sync(path: str) -> None:
    """Has a file, or a folder's entries, reach the disk before what comes next does."""
    if os.name == "nt":  # where folders cannot be opened
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
