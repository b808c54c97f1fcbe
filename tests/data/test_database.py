import os
import sys

import lmdb
import pytest

from jaxcaffe.data import database
from jaxcaffe.errors import ConfigError, DataError

plyvel_missing = False
try:
    import plyvel
except ImportError:
    plyvel_missing = True

BACKENDS = [
    "lmdb",
    pytest.param(
        "leveldb", marks=pytest.mark.skipif(plyvel_missing, reason="needs plyvel")
    ),
]


def read_all(path, backend):
    with database.open_database(str(path), backend) as opened:
        return list(opened.records)


@pytest.mark.parametrize("backend", BACKENDS)
def test_create_database_records_come_back_in_key_order(tmp_path, backend):
    path = tmp_path / "db"
    keys = [b"%05d" % (i * 7919 % 2503) for i in range(2503)]  # more than two commits
    with database.create_database(str(path), backend) as put:
        for key in keys:
            put(key, b"value " + key)
    assert read_all(path, backend) == [(k, b"value " + k) for k in sorted(keys)]
    assert os.listdir(tmp_path) == ["db"]


def test_open_database_lmdb_knows_its_length(tmp_path):
    path = str(tmp_path / "db")
    with database.create_database(path) as put:
        put(b"a", b"1")
        put(b"b", b"2")
    with database.open_database(path) as opened:
        assert opened.length == 2


def test_create_database_lmdb_map_grows_when_full(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "_FIRST_MAP_BYTES", 1 << 16)
    path = tmp_path / "db"
    records = [(b"%04d" % i, os.urandom(3000)) for i in range(1200)]
    with database.create_database(str(path)) as put:
        for record in records:
            put(*record)
    assert read_all(path, "lmdb") == records
    assert (path / "data.mdb").stat().st_size > 1200 * 3000


def test_create_database_large_records_are_committed_early(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "_COMMIT_BYTES", 5000)
    path = tmp_path / "db"
    with database.create_database(str(path)) as put:
        (partial,) = tmp_path.iterdir()
        put(b"a", bytes(6000))
        # Already in the file, which another process can see.
        assert b"\0" * 6000 in (partial / "data.mdb").read_bytes()
    assert [key for key, _ in read_all(path, "lmdb")] == [b"a"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_create_database_path_appears_only_at_the_end(tmp_path, backend):
    path = tmp_path / "db"
    with database.create_database(str(path), backend) as put:
        put(b"a", b"1")
        (name,) = os.listdir(tmp_path)
        assert name.startswith("db.partial-")
    assert os.listdir(tmp_path) == ["db"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_create_database_error_inside_leaves_nothing(tmp_path, backend):
    def interrupted():
        with database.create_database(str(tmp_path / "db"), backend) as put:
            put(b"a", b"1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("slash", ["", "/"])
def test_create_database_existing_path_is_refused_untouched(tmp_path, backend, slash):
    path = tmp_path / "db"
    path.mkdir()
    (path / "mine.txt").write_text("keep")
    with (
        pytest.raises(ConfigError, match=r"db/?: exists already, and is left as it is"),
        database.create_database(f"{path}{slash}", backend),
    ):
        pass
    assert os.listdir(tmp_path) == ["db"]
    assert os.listdir(path) == ["mine.txt"]


def test_create_database_path_taken_meanwhile_is_left_alone(tmp_path):
    path = tmp_path / "db"

    def overtaken():
        with database.create_database(str(path)) as put:
            put(b"a", b"1")
            path.write_text("somebody else's")

    with pytest.raises(ConfigError, match=r"exists already"):
        overtaken()
    assert path.read_text() == "somebody else's"
    assert os.listdir(tmp_path) == ["db"]


def test_create_database_missing_parent_is_refused(tmp_path):
    with (
        pytest.raises(ConfigError, match=r"its folder .*no does not exist"),
        database.create_database(str(tmp_path / "no" / "db")),
    ):
        pass


def test_create_database_parent_that_may_not_be_written_is_refused(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o555)
    try:
        with (
            pytest.raises(ConfigError, match=r"cannot be created: Permission denied"),
            database.create_database(str(tmp_path / "db")),
        ):
            pass
    finally:
        tmp_path.chmod(0o755)


def test_create_database_unknown_backend_is_refused(tmp_path):
    with (
        pytest.raises(
            ConfigError, match=r'"level" is no database backend. Accepted: leveldb'
        ),
        database.create_database(str(tmp_path / "db"), "level"),
    ):
        pass


@pytest.mark.parametrize("key", [b"", b"k" * 512])
def test_create_database_lmdb_impossible_key_is_refused(tmp_path, key):
    with (
        pytest.raises(DataError, match=f"the key has {len(key)} bytes.* 1 to 511"),
        database.create_database(str(tmp_path / "db")) as put,
    ):
        put(key, b"1")
    assert os.listdir(tmp_path) == []


def test_create_database_leveldb_without_plyvel_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plyvel", None)
    with (
        pytest.raises(ConfigError, match=r"pip install 'jaxcaffe\[leveldb\]'"),
        database.create_database(str(tmp_path / "db"), "leveldb"),
    ):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_open_database_missing_folder_is_refused_and_not_made(tmp_path, backend):
    with pytest.raises(DataError, match=r"none: does not exist"):
        read_all(tmp_path / "none", backend)
    assert os.listdir(tmp_path) == []


def test_open_database_file_is_refused(tmp_path):
    (tmp_path / "db").write_text("x")
    with pytest.raises(DataError, match=r"db: is a file"):
        read_all(tmp_path / "db", "lmdb")


def test_open_database_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no database.*data.mdb"):
        read_all(tmp_path, "lmdb")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(plyvel_missing, reason="needs plyvel")
def test_open_database_other_backend_is_named(tmp_path):
    for made, other in (("lmdb", "leveldb"), ("leveldb", "lmdb")):
        with database.create_database(str(tmp_path / made), made) as put:
            put(b"a", b"1")
        with pytest.raises(DataError, match=f"is not {other} but {made}"):
            read_all(tmp_path / made, other)


def test_open_database_truncated_lmdb_is_refused(tmp_path):
    path = tmp_path / "db"
    with database.create_database(str(path)) as put:
        put(b"a", bytes(100000))
    os.truncate(path / "data.mdb", 40000)
    with pytest.raises(DataError, match=r"data.mdb is truncated: 40000 bytes of at"):
        read_all(path, "lmdb")


def test_open_database_garbage_lmdb_is_refused(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"garbage" * 5000)
    with pytest.raises(DataError, match=r"cannot be opened: .*data.mdb|MDB_INVALID"):
        read_all(tmp_path, "lmdb")


@pytest.mark.skipif(plyvel_missing, reason="needs plyvel")
def test_open_database_corrupt_leveldb_is_refused(tmp_path):
    path = tmp_path / "db"
    with database.create_database(str(path), "leveldb") as put:
        put(b"a", b"1")
    (path / "CURRENT").write_text("MANIFEST-999999\n")
    with pytest.raises(DataError, match=r"db: the LevelDB database cannot be opened"):
        read_all(path, "leveldb")


@pytest.mark.skipif(plyvel_missing, reason="needs plyvel")
def test_open_database_leveldb_leaves_the_folder_as_it_is(tmp_path):
    path = tmp_path / "db"
    with database.create_database(str(path), "leveldb") as put:
        put(b"a", b"1")
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    assert read_all(path, "leveldb") == [(b"a", b"1")]
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


@pytest.mark.skipif(plyvel_missing, reason="needs plyvel")
def test_open_database_leveldb_with_a_flipped_byte_is_refused(tmp_path):
    path = tmp_path / "db"
    with database.create_database(str(path), "leveldb") as put:
        put(b"a", bytes(5000))
    plyvel.DB(str(path)).close()  # what the log holds becomes a table
    (table,) = path.glob("*.ldb")
    content = bytearray(table.read_bytes())
    content[20] ^= 255
    table.write_bytes(content)
    with pytest.raises(DataError, match=r"db: the LevelDB database is damaged \(.*"):
        read_all(path, "leveldb")


def test_open_database_lmdb_of_read_only_folder_is_readable(tmp_path):
    path = tmp_path / "db"
    with database.create_database(str(path)) as put:
        put(b"a", b"1")
    (path / "lock.mdb").unlink()
    path.chmod(0o555)
    try:
        assert read_all(path, "lmdb") == [(b"a", b"1")]
        assert os.listdir(path) == ["data.mdb"]
    finally:
        path.chmod(0o755)


def test_create_database_lmdb_is_plain_to_other_readers(tmp_path):
    with database.create_database(str(tmp_path / "db")) as put:
        put(b"a", b"1")
    with (
        lmdb.open(str(tmp_path / "db"), readonly=True) as environment,
        environment.begin() as transaction,
    ):
        assert transaction.get(b"a") == b"1"
