"""Records of a LevelDB database by index, in the order of their keys.

Follows caffe/src/caffe/util/db_leveldb.cpp and data_layer.cpp.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from typing import Any

from jaxcaffe.data.database import import_plyvel
from jaxcaffe.data.image import Decode
from jaxcaffe.data.lmdb import Row, read_record
from jaxcaffe.errors import DataError, describe


class LevelDbSource:
    """Random access to the Datum records of a LevelDB database.

    `source[i]` is {"data": (C, H, W) uint8 or float32 pixels, BGR if colour; "label":
    () float32} of the i-th key in byte order, which is the order in which Caffe reads.

    Args:
      path: the database's folder.
      decode: channels of encoded records.

    Raises:
      ConfigError: plyvel is not installed.
      DataError: there is no database at `path`, it is empty, or a record is no Datum.

    Source: caffe/src/caffe/util/db_leveldb.cpp LevelDB::Open. Differs: LevelDB locks a
    database and rewrites its files whenever it is opened; here each process opens a
    temporary folder of links to them, so readers neither shut each other out nor change
    anything.
    """

    groups: tuple[int, ...] | None = None

    def __init__(self, path: str, decode: Decode = "native") -> None:
        self.path = path
        self._decode = decode
        self._lock = threading.Lock()
        self._held: tuple[int, Any] | None = None
        with self._database().iterator(include_value=False) as keys:
            self._keys = tuple(keys)
        if not self._keys:
            raise DataError(describe(path, "the LevelDB database holds no record"))

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Row:
        """Returns {"data": (C, H, W) uint8 or float32, "label": () float32}."""
        key = self._keys[index]
        return read_record(self._database().get(key), key, self._decode, self.path)

    def key(self, index: int) -> str:
        """Returns the record's key as text, for messages."""
        return self._keys[index].decode("utf-8", "replace")

    def __repr__(self) -> str:
        return f"LevelDB {self.path} ({len(self)} records)"

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"_held": None}
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def _database(self) -> Any:
        held = self._held
        if held is None or held[0] != os.getpid():
            with self._lock:
                held = self._held
                if held is None or held[0] != os.getpid():
                    process = os.getpid()
                    database, view = _open_view(self.path)
                    weakref.finalize(self, _close_view, process, database, view)
                    held = (process, database)
                    self._held = held
        return held[1]


def _open_view(path: str) -> tuple[Any, str]:
    """Returns the database, opened through links, and the folder that holds these."""
    plyvel = import_plyvel()
    if not os.path.exists(os.path.join(path, "CURRENT")):
        raise DataError(
            describe(
                path,
                _missing(path),
                "the folder of a LevelDB database, which holds a file CURRENT",
            )
        )
    view = tempfile.mkdtemp(prefix="jaxcaffe_leveldb_")
    try:
        for name in os.listdir(path):
            if name != "LOCK":
                os.symlink(
                    os.path.abspath(os.path.join(path, name)),
                    os.path.join(view, name),
                )
        database = plyvel.DB(view, create_if_missing=False)
    except (plyvel.Error, OSError) as error:
        shutil.rmtree(view, ignore_errors=True)
        raise DataError(
            describe(path, f"the LevelDB database cannot be opened ({error})")
        ) from error
    return database, view


def _close_view(process: int, database: Any, view: str) -> None:
    # A forked child inherits this finalizer, but neither the database nor the folder.
    if process == os.getpid():
        database.close()
        shutil.rmtree(view, ignore_errors=True)


def _missing(path: str) -> str:
    if os.path.exists(os.path.join(path, "data.mdb")):
        return "this is an LMDB database, not LevelDB (backend: LMDB reads it)"
    if os.path.exists(path):
        return "no LevelDB database here"
    return "no such folder"
