"""A LevelDB database opened for reading, so that its own files never change.

Follows caffe/src/caffe/util/db_leveldb.cpp.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

from jaxcaffe.errors import ConfigError, DataError, describe

_WRITE_BUFFER = 256 << 20  # Caffe's: the largest log that its writers leave behind
_BLOCKED = 100


class View(NamedTuple):
    """An open database."""

    database: Any  # plyvel.DB
    path: str  # of the database
    folder: str  # of the links, removed by close_view
    process: int  # that opened it


def open_view(path: str) -> View:
    """Opens the database at `path` through a temporary folder of links to its files.

    LevelDB has no way to open a database for reading alone: it takes a lock, so that
    two readers shut each other out, turns what its log holds into a table, and merges
    tables whenever it thinks that this makes reading faster. All of that happens in
    the temporary folder. Merging, which would copy the whole database there, is
    stopped at its first table. What remains are the records of the log: at most about
    256 MiB where Caffe or jaxcaffe wrote the database, in the folder for temporary
    files, which the environment variable TMPDIR names.

    Args:
      path: the database's folder.

    Raises:
      ConfigError: plyvel is not installed.
      DataError: there is no database at `path`, or its log or list of tables is
        damaged. LevelDB takes a log that stops in the middle of a record for one whose
        writer was killed, and leaves that record out.

    Source: caffe/src/caffe/util/db_leveldb.cpp LevelDB::Open. Differs: no file at
    `path` changes; damage is an error, where LevelDB passes over damaged records.
    """
    plyvel = import_plyvel()
    if not os.path.exists(os.path.join(path, "CURRENT")):
        raise DataError(
            describe(
                path,
                _missing(path),
                "the folder of a LevelDB database, which holds a file CURRENT",
            )
        )
    folder = tempfile.mkdtemp(prefix="jaxcaffe_leveldb_")
    try:
        for name in os.listdir(path):
            if name != "LOCK":
                os.symlink(
                    os.path.abspath(os.path.join(path, name)),
                    os.path.join(folder, name),
                )
        database = plyvel.DB(
            folder,
            create_if_missing=False,
            paranoid_checks=True,
            # A smaller buffer would make many tables of one log.
            write_buffer_size=_WRITE_BUFFER,
            max_file_size=1 << 20,  # of a table that a merge makes before it is stopped
        )
        _stop_merging(folder)
    except (plyvel.Error, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        reason = describe_error(error, View(None, path, folder, os.getpid()))
        raise DataError(
            describe(path, f"the LevelDB database cannot be opened ({reason})")
        ) from error
    return View(database, path, folder, os.getpid())


def close_view(view: View) -> None:
    """Closes the database and removes the links; a forked child leaves both alone."""
    if view.process == os.getpid():
        view.database.close()
        shutil.rmtree(view.folder, ignore_errors=True)


def iterate(view: View, include_value: bool = True) -> Iterator[Any]:
    """Yields (key, value) of each record in the order of the keys, or the keys alone.

    Raises:
      DataError: a table is damaged.
    """
    is_empty = True
    problem = "its tables hold no record that can be read"
    try:
        with view.database.iterator(
            include_value=include_value, verify_checksums=True, fill_cache=False
        ) as records:
            for record in records:
                is_empty = False
                yield record
            # plyvel takes a damaged last block for the end; a seek tells them apart,
            # unless there is no other block.
            records.seek(b"")
        if not is_empty or not view.database.approximate_size(b"", b"\xff" * 64):
            return
    except import_plyvel().Error as error:
        problem = describe_error(error, view)
    raise DataError(describe(view.path, f"the LevelDB database is damaged ({problem})"))


def describe_error(error: Exception, view: View) -> str:
    """Returns what plyvel says, with the database's own path for that of the links."""
    said = error.args[0] if error.args else ""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(error)
    return text.replace(view.folder, view.path)


def import_plyvel() -> ModuleType:
    """Returns plyvel, through which LevelDB is read and written; it is optional."""
    try:
        import plyvel
    except ImportError:
        raise ConfigError(
            "LevelDB needs the package plyvel, which is not installed. "
            "Accepted: pip install 'jaxcaffe[leveldb]', or the backend lmdb."
        ) from None
    return plyvel


def _stop_merging(folder: str) -> None:
    # LevelDB numbers its files one after another. A folder that bears the next table's
    # name makes a merge fail; after its first failure LevelDB tries no other, and
    # reads on from the tables that it has. One more folder for each table that a merge
    # may have begun since the database opened.
    numbers = [
        int(m[0]) for m in map(re.compile(r"\d+").search, os.listdir(folder)) if m
    ]
    for number in range(max(numbers) + 1, max(numbers) + 1 + _BLOCKED):
        with contextlib.suppress(FileExistsError):
            os.mkdir(os.path.join(folder, f"{number:06d}.ldb"))


def _missing(path: str) -> str:
    if os.path.exists(os.path.join(path, "data.mdb")):
        return "this is an LMDB database, not LevelDB (backend: LMDB reads it)"
    if os.path.exists(path):
        return "no LevelDB database here"
    return "no such folder"
