import gc
import os
import pickle
import random
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


def test_leveldb_source_random_reads_copy_no_database(tmp_path, monkeypatch):
    path, views = str(tmp_path / "db"), tmp_path / "views"
    rng = random.Random(0)
    # Keys in no order and a small buffer make tables that LevelDB wants to merge.
    with plyvel.DB(path, create_if_missing=True, write_buffer_size=65536) as writer:
        for index in rng.sample(range(4000), 4000):
            datum = caffe_pb2.Datum(
                channels=1, height=1, width=1000, data=rng.randbytes(1000), label=index
            )
            writer.put(b"%08d" % index, datum.SerializeToString())
    views.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(views))
    source = LevelDbSource(path)
    for index in rng.choices(range(4000), k=10000):
        assert float(source[index]["label"]) == index
    (view,) = views.iterdir()
    own = [f for f in view.iterdir() if f.is_file() and not f.is_symlink()]
    # Merged, all four million bytes would lie here.
    assert sum(file.stat().st_size for file in own) < 2_500_000


def flip(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 255]))


@pytest.fixture
def find_file(tmp_path):
    """Makes a LevelDB of 150 kB in its log or in a table; returns it and that file."""

    def make(kind):
        path = tmp_path / "db"
        with plyvel.DB(str(path), create_if_missing=True, compression=None) as writer:
            for index in range(50):
                datum = caffe_pb2.Datum(
                    channels=1, height=1, width=3000, data=bytes([index]) * 3000
                )
                writer.put(b"%08d" % index, datum.SerializeToString())
        if kind == "ldb":
            # What the log holds becomes a table.
            plyvel.DB(str(path), compression=None).close()
        file = max(path.glob(f"*.{kind}"), key=lambda file: file.stat().st_size)
        assert file.stat().st_size > 150_000
        return str(path), str(file)

    return make


@pytest.mark.parametrize(
    ("kind", "offset", "problem"),
    [
        ("log", 75_000, "cannot be opened"),
        ("ldb", 20, "is damaged"),
        ("ldb", 75_000, "is damaged"),
        ("ldb", 148_000, "is damaged"),  # the last block of records
    ],
)
def test_leveldb_source_flipped_byte_raises(find_file, kind, offset, problem):
    path, file = find_file(kind)
    flip(file, offset)
    with pytest.raises(DataError, match=f"{problem} .*checksum mismatch") as caught:
        LevelDbSource(path)
    assert str(caught.value).startswith(path)


def test_leveldb_source_truncated_table_raises_with_its_own_path(find_file):
    path, file = find_file("ldb")
    os.truncate(file, 75_000)
    with pytest.raises(DataError, match=f"is damaged .*{file}"):
        LevelDbSource(path)


def test_leveldb_source_damaged_since_it_was_opened_names_the_record(find_file):
    path, file = find_file("ldb")
    source = LevelDbSource(path)
    flip(file, 75_000)
    again = pickle.loads(pickle.dumps(source))
    with pytest.raises(
        DataError, match=r'record "000000\d\d" cannot be read .*checksum'
    ):
        list(map(again.__getitem__, range(50)))


def test_leveldb_source_record_gone_since_it_was_opened_raises(database):
    source = LevelDbSource(database)
    with plyvel.DB(database) as writer:
        writer.delete(b"00000001")
    again = pickle.loads(pickle.dumps(source))
    assert float(again[2]["label"]) == 2
    with pytest.raises(DataError, match='record "00000001" is gone'):
        again[1]


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
