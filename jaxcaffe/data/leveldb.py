"""Records of a LevelDB database by index, in the order of their keys.

Follows caffe/src/caffe/util/db_leveldb.cpp and data_layer.cpp.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

from jaxcaffe.data.image import Decode
from jaxcaffe.data.leveldb_view import (
    View,
    close_view,
    describe_error,
    import_plyvel,
    iterate,
    open_view,
)
from jaxcaffe.data.lmdb import Row, read_record
from jaxcaffe.errors import DataError, describe


class LevelDbSource:
    """Random access to the Datum records of a LevelDB database.

    `source[i]` is {"data": (C, H, W) uint8 or float32 pixels, BGR if colour; "label":
    () float32} of the i-th key in byte order, which is the order in which Caffe reads.
    Each process opens a view of its own (see leveldb_view.py), so readers neither shut
    each other out nor change anything. Opening reads all records once, for their keys.

    Args:
      path: the database's folder.
      decode: channels of encoded records.

    Raises:
      ConfigError: plyvel is not installed.
      DataError: there is no database at `path`, it is empty or damaged, or a record is
        no Datum.

    Source: caffe/src/caffe/util/db_leveldb.cpp LevelDB::Open. Differs: checksums are
    compared, so that damage is an error; records are found by index.
    """

    groups: tuple[int, ...] | None = None

    def __init__(self, path: str, decode: Decode = "native") -> None:
        self.path = path
        self._decode = decode
        self._lock = threading.Lock()
        self._held: View | None = None
        view = self._view()
        self._keys: tuple[bytes, ...] = tuple(iterate(view, include_value=False))
        if not self._keys:
            raise DataError(describe(path, "the LevelDB database holds no record"))

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Row:
        """Returns {"data": (C, H, W) uint8 or float32, "label": () float32}."""
        key = self._keys[index]
        view = self._view()
        try:
            value = view.database.get(key, verify_checksums=True)
        except import_plyvel().Error as error:
            reason = describe_error(error, view)
            raise DataError(
                describe(
                    self.path, f'record "{self.key(index)}" cannot be read ({reason})'
                )
            ) from error
        if value is None:
            raise DataError(
                describe(
                    self.path,
                    f'record "{self.key(index)}" is gone since the database was opened',
                )
            )
        return read_record(value, key, self._decode, self.path)

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

    def _view(self) -> View:
        held = self._held
        if held is None or held.process != os.getpid():
            with self._lock:
                held = self._held
                if held is None or held.process != os.getpid():
                    held = open_view(self.path)
                    weakref.finalize(self, close_view, held)
                    self._held = held
        return held
