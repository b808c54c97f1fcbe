import contextlib
import gc
import multiprocessing
import os
import pathlib
import pickle
import shutil
import threading

import lmdb
import numpy as np
import pytest

from jaxcaffe.data import lmdb as lmdb_module
from jaxcaffe.data.lmdb import LmdbSource
from jaxcaffe.errors import DataError


def rows(count=5):
    return [np.full((3, 2, 4), i, np.uint8) for i in range(count)]


def write_file(folder, name, text):
    os.mkdir(folder)
    pathlib.Path(folder, name).write_text(text)


def test_lmdb_source_gives_records_in_key_order(make_lmdb):
    source = LmdbSource(make_lmdb(rows(), labels=[9, 8, 7, 6, 5]))
    assert len(source) == 5
    assert [float(source[i]["label"]) for i in range(5)] == [9, 8, 7, 6, 5]
    for index in (4, 0, 2):
        np.testing.assert_array_equal(source[index]["data"], rows()[index])
        assert source[index]["data"].dtype == np.uint8
        assert source[index]["label"].dtype == np.float32
    assert source.key(3) == "00000003_db"
    assert "5 records" in repr(source)


def test_lmdb_source_float_data_stays_float(make_lmdb):
    array = np.float32([[[0.5, -2.25]]])
    np.testing.assert_array_equal(LmdbSource(make_lmdb([array]))[0]["data"], array)


def test_lmdb_source_data_file_instead_of_folder_opens(make_lmdb):
    assert len(LmdbSource(make_lmdb(rows()) + "/data.mdb")) == 5


def test_lmdb_source_pickled_reads_the_same(make_lmdb):
    source = LmdbSource(make_lmdb(rows()))
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again[3]["data"], source[3]["data"])


def test_lmdb_source_opened_twice_shares_one_environment(make_lmdb):
    path = make_lmdb(rows())
    first, second = LmdbSource(path), LmdbSource(os.path.relpath(path))
    assert first._environment() is second._environment()


def test_lmdb_source_dropped_closes_its_environment(make_lmdb):
    path = make_lmdb(rows())
    source = LmdbSource(path)
    del source
    gc.collect()
    assert not lmdb_module._environments
    lmdb.open(path, readonly=True, lock=False).close()


def test_lmdb_source_database_made_anew_is_read_anew(make_lmdb):
    path = make_lmdb(rows())
    old = LmdbSource(path)
    shutil.rmtree(path)
    new = LmdbSource(make_lmdb([np.full((1, 1, 1), 77, np.uint8)]))
    assert new[0]["data"].item() == 77
    assert old[1]["data"].flat[0] == 1


@pytest.mark.parametrize("sequential", [True, False])
def test_lmdb_source_reads_ahead_where_it_is_read_in_order(
    make_lmdb, monkeypatch, sequential
):
    path, opened, real = make_lmdb(rows()), [], lmdb.open
    monkeypatch.setattr(
        lmdb, "open", lambda *args, **kw: opened.append(kw) or real(*args, **kw)
    )
    source = LmdbSource(path, sequential=sequential)
    assert [kw["readahead"] for kw in opened] == [sequential]
    # LMDB opens a file once in a process: the other kind shares what is open.
    assert LmdbSource(path, sequential=not sequential)._environment() is (
        source._environment()
    )


def test_lmdb_source_waits_for_an_environment_that_is_being_closed(make_lmdb):
    path = make_lmdb(rows())
    other = lmdb.open(path, readonly=True, lock=False)
    timer = threading.Timer(0.1, other.close)
    timer.start()
    assert len(LmdbSource(path)) == 5
    timer.join()


def test_lmdb_source_read_many_is_what_indices_give(make_lmdb):
    source = LmdbSource(make_lmdb(rows()))
    found = [int(row["label"]) for row in source.read_many([3, 0, 3])]
    assert found == [3, 0, 3]


def test_lmdb_source_record_that_lmdb_cannot_read_names_the_key(make_lmdb, monkeypatch):
    source = LmdbSource(make_lmdb(rows()))

    class Broken:
        def begin(self):
            return contextlib.nullcontext(self)

        def get(self, key):
            raise lmdb.CorruptedError("page 7")

    monkeypatch.setattr(source, "_environment", Broken)
    with pytest.raises(DataError, match=r'db: record "00000001_db" cannot .*page 7'):
        source[1]


def test_lmdb_source_many_threads_read_right_records(make_lmdb):
    source = LmdbSource(make_lmdb(rows(50)))
    wrong = []

    def read(start):
        for index in list(range(start, 50)) * 4:
            if source[index]["data"].flat[0] != index:
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_lmdb_source_after_fork_opens_its_own_environment(make_lmdb):
    source = LmdbSource(make_lmdb(rows()))
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if not child:
        try:
            source._environment().info()
            sender.send(int(source[2]["data"].flat[0]))
        finally:
            os._exit(0)
    sender.close()
    assert receiver.recv() == 2
    os.waitpid(child, 0)
    assert source[3]["data"].flat[0] == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such file or folder.*data.mdb"),
        (lambda p: write_file(p, "data.mdb", ""), r"data.mdb is empty \(0 bytes\)"),
        (lambda p: os.mkdir(p), "no LMDB database here"),
        (
            lambda p: write_file(p, "CURRENT", ""),
            "LevelDB database, not LMDB .backend: LEVELDB",
        ),
        (
            lambda p: write_file(p, "data.mdb", "x" * 9999),
            "cannot be opened",
        ),
        (lambda p: lmdb.open(p).close(), "holds no record"),
    ],
)
def test_lmdb_source_wrong_path_raises(tmp_path, make, message):
    path = str(tmp_path / "x")
    make(path)
    with pytest.raises(DataError, match=message) as caught:
        LmdbSource(path)
    assert str(caught.value).startswith(path)


def test_lmdb_source_truncated_file_raises(make_lmdb):
    path = make_lmdb([np.zeros((3, 64, 64), np.uint8)] * 9)
    os.truncate(path + "/data.mdb", 20480)
    with pytest.raises(DataError, match="truncated: 20480 bytes of at least"):
        LmdbSource(path)


def test_lmdb_source_value_that_is_no_datum_names_the_key(tmp_path):
    path = str(tmp_path / "db")
    environment = lmdb.open(path)
    with environment.begin(write=True) as transaction:
        transaction.put(b"bad", b"\xff\xff\xff")
    environment.close()
    with pytest.raises(DataError, match=r'db: record "bad".*no Datum'):
        LmdbSource(path)[0]
