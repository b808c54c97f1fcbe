import io
import os

import numpy as np
import pytest

from jaxcaffe import disk


@pytest.mark.parametrize("lengths", [[], [0], [3], [8, 1, 0, 7], [9, 30], [16]])
def test_write_pieces_writes_every_chunk_in_order(tmp_path, monkeypatch, lengths):
    monkeypatch.setattr(disk, "PIECE", 8)
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=length).astype(np.float32) for length in lengths]
    with open(tmp_path / "file", "wb") as file:
        disk.write_pieces(file, [b"head", *(array.data for array in arrays), b"end"])
    wanted = b"head" + b"".join(array.tobytes() for array in arrays) + b"end"
    assert (tmp_path / "file").read_bytes() == wanted


def test_write_pieces_lets_no_more_than_a_piece_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "PIECE", 1 << 16)
    synced = []

    def sync(handle):
        synced.append(os.fstat(handle).st_size)

    monkeypatch.setattr(disk, "sync", sync)
    with open(tmp_path / "file", "wb") as file:
        disk.write_pieces(file, [b"x" * 100, np.zeros(100_000, np.float32).data])
        written = file.tell()
    gaps = np.diff([0, *synced, written])
    assert len(synced) >= 6
    assert gaps.max() <= 2 << 16


def test_sync_of_what_cannot_be_synced_is_an_error():
    with pytest.raises(OSError, match="Bad file descriptor"):
        disk.sync(9999)
    with pytest.raises(io.UnsupportedOperation):
        disk.write_pieces(io.BytesIO(), [bytes(disk.PIECE)])
