import numpy as np
import pytest

from jaxcaffe.errors import DataError
from jaxcaffe.prefetch import DeviceFeed


class Reader:
    """Batch k holds k and has the k-th size; None is a record that cannot be read."""

    def __init__(self, sizes):
        self.positions = {"data": 0}
        self.read = 0
        self._sizes = sizes

    def __next__(self):
        size = self._sizes[self.read]
        if size is None:
            raise DataError("record 00000007 is broken")
        batch = {"data": np.full(size, self.read)}
        self.read += 1
        self.positions = {"data": self.read}
        return batch

    def close(self):
        pass


def open_feed(sizes, **options):
    reader = Reader(sizes)
    return DeviceFeed(reader, dict, **options), reader


def numbers(batches):
    return [int(batch["data"][0]) for batch in batches]


def test_take_returns_as_many_batches_as_asked_for_and_reads_no_more():
    feed, reader = open_feed([3] * 20)
    assert numbers(feed.take(4)) == [0, 1, 2, 3]
    assert feed.positions == {"data": 4}
    assert reader.read == 4
    assert numbers(feed.take(1)) == [4]
    assert numbers([next(feed)]) == [5]
    assert feed.positions == {"data": 6}


def test_take_ends_before_a_batch_of_another_size():
    feed, _ = open_feed([3, 3, 5, 3, 3, 3])
    assert [numbers(feed.take(3)) for _ in range(3)] == [[0, 1], [2], [3, 4, 5]]


def test_take_gives_what_lies_before_a_broken_record_and_then_the_error():
    feed, _ = open_feed([3, 3, 3, None], depth=4)
    assert numbers(feed.take(2)) == [0, 1]
    feed.fill()  # finds the broken record
    assert numbers(feed.take(2)) == [2]
    assert feed.positions == {"data": 3}
    with pytest.raises(DataError, match="00000007"):
        feed.take(2)
    assert feed.positions == {"data": 3}


def test_fill_reads_ahead_what_the_next_take_needs():
    feed, reader = open_feed([3] * 20, depth=4)
    feed.fill()
    assert reader.read == 4
    assert feed.positions == {"data": 0}
    assert numbers(feed.take(4)) == [0, 1, 2, 3]
    assert reader.read == 4
