"""The endless sequence of checked records behind a data layer.

Follows the record order of caffe/src/caffe/layers/data_layer.cpp and
image_data_layer.cpp.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from jaxcaffe.errors import CaffeError, DataError, describe

_ORDER, SKIP, _CROP = 0, 1, 2
"""What a random number is for; each purpose has numbers of its own."""


class Source(Protocol):
    """Records by index; what every source class offers.

    A source is picklable and may be read from several threads and processes. One that
    reads several records at once for less offers `read_many(indices)`, which yields
    what `source[index]` is for each. One whose records are drawn at random, not gone
    through, offers `pick(seed, position, batch_size)`, which returns an index.
    """

    groups: tuple[int, ...] | None
    """Numbers of records that are cheap to read together, adding up to the length;
    a shuffle then permutes groups, and records inside groups. None: no such groups."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Returns {"data": ..., "label": ...}, or {top: ...} for HDF5."""

    def key(self, index: int) -> str:
        """Returns what the record is called, for messages."""


class Shuffle:
    """The order of a source's records in each epoch; a function of its arguments alone.

    Args:
      groups: numbers of records that stay together, adding up to the source's length.
      seed: of the run.
    """

    def __init__(self, groups: Sequence[int], seed: int) -> None:
        self._groups = tuple(groups)
        self._seed = seed
        self.__setstate__({})

    def order(self, epoch: int) -> np.ndarray:
        """Returns the indices (N,) int64 of the records, in the epoch's order."""
        # The lock is held while an order is made: other threads will want the same.
        with self._lock:
            order = self._orders.pop(epoch, None)
            if order is None:
                order = self._make(epoch)
            self._orders[epoch] = order
            # Two, because reading ahead goes to and fro over an epoch's end.
            while len(self._orders) > 2:
                del self._orders[next(iter(self._orders))]
            return order

    def __getstate__(self) -> dict[str, Any]:
        return {"_groups": self._groups, "_seed": self._seed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
        self._orders: dict[int, np.ndarray] = {}  # the one used last stands last

    def _make(self, epoch: int) -> np.ndarray:
        groups, bits = self._groups, _bits(self._seed, _ORDER, epoch)
        starts = np.concatenate([[0], np.cumsum(groups)])
        order = np.argsort(bits.random_raw(len(groups)), kind="stable")
        return np.concatenate(
            [
                starts[group]
                + np.argsort(bits.random_raw(groups[group]), kind="stable")
                for group in order
            ]
        )


@dataclasses.dataclass(frozen=True)
class Records:
    """The endless sequence of checked records behind a feed.

    Record p is {top: array}, counted from where the feed starts, through all epochs.
    """

    source: Source
    tops: tuple[tuple[str, str], ...]  # (the source's name, top)
    title: str  # file, line, layer, for messages
    seed: int
    shuffle: Shuffle | None  # None: the source's order
    skip: int
    batch_size: int
    crop: tuple[int, bool] | None = None  # crop_size, whether at random
    expected: Mapping[str, tuple[tuple[int, ...], np.dtype]] | None = None
    limits: Mapping[str, tuple[int, int | None]] | None = None

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        """Returns {top: array} of the record at a position."""
        batch = self._read([position])
        return {top: array[0] for top, array in batch.items()}

    def read_batch(self, number: int) -> dict[str, np.ndarray]:
        """Returns {top: (N, ...)} of batch `number`.

        Raises:
          DataError: a record is broken or does not fit; names the first such.
        """
        start = number * self.batch_size
        return self._read(range(start, start + self.batch_size))

    def index(self, position: int) -> int:
        """Returns the source's index of the record at a position of the sequence."""
        pick = getattr(self.source, "pick", None)
        if pick is not None:
            return pick(self.seed, position + self.skip, self.batch_size)
        epoch, index = divmod(position + self.skip, len(self.source))
        return index if self.shuffle is None else int(self.shuffle.order(epoch)[index])

    def _read(self, positions: Sequence[int]) -> dict[str, np.ndarray]:
        indices = [self.index(position) for position in positions]
        batch: dict[str, np.ndarray] = {}
        rows = zip(positions, indices, self._read_source(indices), strict=True)
        for row, (position, index, record) in enumerate(rows):
            for name, top in self.tops:
                array = record[name]
                if self.crop is not None and top == self.tops[0][1]:
                    array = self._crop(array, position, index)
                if self.expected is not None:
                    self._check_struct(array, top, index)
                if not row:
                    batch[top] = np.empty((len(indices), *array.shape), array.dtype)
                batch[top][row] = array
        for top, (classes, ignored) in (self.limits or {}).items():
            self._check_labels(batch[top], top, classes, ignored, indices)
        return batch

    def _read_source(self, indices: Sequence[int]) -> Iterable[dict[str, np.ndarray]]:
        read_many = getattr(self.source, "read_many", None)
        try:
            if read_many is None:
                yield from map(self.source.__getitem__, indices)
            else:
                yield from read_many(indices)
        except CaffeError as error:
            raise DataError(f"{self.title}: {error}") from error

    def _crop(self, data: np.ndarray, position: int, index: int) -> np.ndarray:
        assert self.crop is not None
        crop_size, is_random = self.crop
        _, height, width = data.shape
        if crop_size > min(height, width):
            raise self.error(
                index,
                f"is {height}x{width}, smaller than crop_size {crop_size}",
                "a smaller crop_size, or larger images",
            )
        top, left = (height - crop_size) // 2, (width - crop_size) // 2
        if is_random:
            # From the position alone, so that no generator's state needs saving.
            drawn = draw(self.seed, _CROP, position + self.skip, 2)
            top = drawn[0] % (height - crop_size + 1)
            left = drawn[1] % (width - crop_size + 1)
        return data[:, top : top + crop_size, left : left + crop_size]

    def _check_struct(self, array: np.ndarray, top: str, index: int) -> None:
        assert self.expected is not None
        shape, dtype = self.expected[top]
        if array.shape != shape:
            accepted = "records of one size, crop_size, or batch_size: 1"
            if self._differs_in_channels(array.shape, shape):
                accepted = "records of one number of channels" + (
                    "; transform_param { force_color: true } or { force_gray: "
                    "true } where they are encoded"
                )
            elif len(shape) == 3 and self.crop is None:
                accepted += "; with crop_size also the option crop_on_host=True"
            raise self.error(
                index,
                f'top "{top}" is {describe_sizes(array.shape)}, the first '
                f"record's {describe_sizes(shape)}",
                accepted,
            )
        if array.dtype != dtype:
            raise self.error(
                index,
                f'top "{top}" is {array.dtype}, the first record\'s {dtype}',
                "records of one kind, all bytes or all float_data",
            )

    @staticmethod
    def _differs_in_channels(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
        return len(shape) == len(other) == 3 and shape[0] != other[0]

    def _check_labels(
        self,
        labels: np.ndarray,
        top: str,
        classes: int,
        ignored: int | None,
        indices: Sequence[int],
    ) -> None:
        is_bad = (labels < 0) | (labels >= classes)
        if ignored is not None:
            is_bad &= labels != ignored
        if is_bad.any():
            row = int(np.argwhere(is_bad)[0, 0])
            value = labels[is_bad].flat[0]
            raise self.error(
                indices[row],
                f'label {value:g} in top "{top}" has no class; the net has {classes}',
                f"0 to {classes - 1}"
                + ("" if ignored is None else f", or ignore_label {ignored}"),
            )

    def error(self, index: int, problem: str, accepted: str) -> DataError:
        """Returns an error that names the layer, the record and its source."""
        place = f'{self.title}: record "{self.source.key(index)}" of {self.source!r}'
        return DataError(describe(place, problem, accepted))


class Batches:
    """The batches of a sequence of records: a Grain source, whose element k is batch k.

    Whole batches, because what Grain does for each element costs more than reading a
    small record.
    """

    def __init__(self, records: Records) -> None:
        self._records = records

    def __len__(self) -> int:
        # Grain wants a number; nobody comes this far.
        return 2**48

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        """Returns {top: (N, ...)} of this host's rows."""
        return self._records.read_batch(number)

    def __repr__(self) -> str:
        return f"batches of {self._records.source!r}"


def draw(seed: int, purpose: int, index: int, count: int) -> list[int]:
    """Returns `count` random 64-bit numbers that depend on the arguments alone.

    Args:
      seed: of the run.
      purpose: SKIP or another of the constants above.
      index: epoch or position.
      count: how many.
    """
    return [int(word) for word in _bits(seed, purpose, index).random_raw(count)]


def _bits(seed: int, purpose: int, index: int) -> np.random.Philox:
    # Raw words, because NumPy promises them, and not its distributions, for ever.
    return np.random.Philox(
        key=np.array([seed % 2**64, purpose], np.uint64),
        counter=np.array([0, 0, 0, index], np.uint64),
    )


def describe_sizes(shape: tuple[int, ...]) -> str:
    """Returns a shape as text, such as 3x227x227."""
    return "x".join(map(str, shape)) if shape else "a single value"
