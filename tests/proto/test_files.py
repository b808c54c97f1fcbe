import os
import re
import subprocess
import sys

import pytest

from jaxcaffe.errors import SnapshotError
from jaxcaffe.proto.files import remove_leftovers, write_atomically, write_bytes

NAME = re.compile(r"x_iter_\d+\.caffemodel")

# Killed in the middle of a file, as nothing but a kill leaves one there.
KILLED = """
import os, signal
from jaxcaffe.errors import SnapshotError
from jaxcaffe.proto.files import write_atomically
def write(file):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
write_atomically("x_iter_5.caffemodel", write, SnapshotError)
"""


def test_file_whose_writing_fails_is_not_there(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"before")

    def write(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(SnapshotError, match=r"cannot be written \(No space left"):
        write_atomically(path, write, SnapshotError)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert path.read_bytes() == b"before"


def test_what_a_killed_process_had_begun_goes_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_bytes("x_iter_4.caffemodel", b"whole", SnapshotError)
    subprocess.run([sys.executable, "-c", KILLED], check=False)
    (begun,) = (p.name for p in tmp_path.glob(".x_iter_5.caffemodel.*.part"))
    kept = [
        f".x_iter_6.caffemodel.{os.getppid()}.part",  # of a process at work
        ".y_iter_5.caffemodel.99999999.part",  # of another name
        "x_iter_5.caffemodel.1.part",
    ]
    ours = f".x_iter_7.caffemodel.{os.getpid()}.part"  # of one that had our id
    for name in (*kept, ours):
        (tmp_path / name).write_bytes(b"half")
    remove_leftovers(tmp_path, NAME)
    assert not {begun, ours} & set(os.listdir())
    assert set(os.listdir()) == {*kept, "x_iter_4.caffemodel"}


def test_leftovers_of_a_folder_that_is_not_there_are_none(tmp_path):
    remove_leftovers(tmp_path / "none", NAME)
