import gc
import os
import pickle
import sys

import numpy as np
import pytest

from jaxcaffe.data.leveldb import LevelDbSource
from jaxcaffe.errors import CaffeError, DataError
from jaxcaffe.proto import caffe_pb2

plyvel = pytest.importorskip("plyvel")


@pytest.fixture
def database(tmp_path):
    path = str(tmp_path / "db")
    with plyvel.DB(path, create_if_missing=True) as writer:
        for index in (2, 0, 1):
            datum = caffe_pb2.Datum(
                channels=1, height=1, width=2, data=bytes([index, 9]), label=index
            )
            writer.put(f"{index:08d}".encode(), datum.SerializeToString())
    return path


def snapshot(path):
    return {
        name: (os.stat(os.path.join(path, name)).st_mtime_ns, len(content))
        for name in sorted(os.listdir(path))
        for content in [open(os.path.join(path, name), "rb").read()]
    }


def test_leveldb_source_gives_records_in_key_order(database):
    source = LevelDbSource(database)
    assert [float(source[i]["label"]) for i in range(len(source))] == [0, 1, 2]
    np.testing.assert_array_equal(source[1]["data"], [[[1, 9]]])
    assert source.key(2) == "00000002"
    assert "3 records" in repr(source)


def test_leveldb_source_reads_while_others_hold_the_lock(database):
    # LevelDB itself lets in one reader at a time.
    with plyvel.DB(database):
        sources = [LevelDbSource(database) for _ in range(3)]
        assert [float(s[i]["label"]) for i, s in enumerate(sources)] == [0, 1, 2]


def test_leveldb_source_leaves_files_untouched(database):
    before = snapshot(database)
    source = LevelDbSource(database)
    assert float(source[0]["label"]) == 0
    del source
    gc.collect()
    assert snapshot(database) == before


def test_leveldb_source_dropped_removes_its_links(database, tmp_path, monkeypatch):
    views = tmp_path / "views"
    views.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(views))
    source = LevelDbSource(database)
    assert len(list(views.iterdir())) == 1
    del source
    gc.collect()
    assert not list(views.iterdir())


def test_leveldb_source_pickled_reads_the_same(database):
    again = pickle.loads(pickle.dumps(LevelDbSource(database)))
    assert float(again[1]["label"]) == 1


def test_leveldb_source_without_plyvel_names_the_extra(database, monkeypatch):
    monkeypatch.setitem(sys.modules, "plyvel", None)
    with pytest.raises(CaffeError, match=r"plyvel.*jaxcaffe\[leveldb\]"):
        LevelDbSource(database)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "no such folder"),
        ("", "no LevelDB database here"),
        ("data.mdb", "LMDB database, not LevelDB .backend: LMDB"),
        ("CURRENT", "cannot be opened"),
    ],
)
def test_leveldb_source_wrong_path_raises(tmp_path, name, message):
    path = tmp_path / "x"
    if name is not None:
        path.mkdir()
    if name:
        (path / name).write_text("MANIFEST-000001\n")
    with pytest.raises(DataError, match=message):
        LevelDbSource(str(path))


def test_leveldb_source_empty_raises(tmp_path):
    path = str(tmp_path / "db")
    plyvel.DB(path, create_if_missing=True).close()
    with pytest.raises(DataError, match="holds no record"):
        LevelDbSource(path)
