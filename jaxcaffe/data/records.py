"""The endless sequence of checked records behind a data layer.

Follows the record order of caffe/src/caffe/layers/data_layer.cpp and
image_data_layer.cpp.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from jaxcaffe.errors import CaffeError, DataError, describe

_ORDER, SKIP, _CROP = 0, 1, 2
"""What a random number is for; each purpose has numbers of its own."""


class Source(Protocol):
    """Records by index; what every source class offers.

    A source is picklable and may be read from several threads and processes.
    """

    groups: tuple[int, ...] | None
    """Numbers of records that are cheap to read together, adding up to the length;
    a shuffle then permutes groups, and records inside groups. None: no such groups."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Returns {"data": ..., "label": ...}, or {top: ...} for HDF5."""

    def key(self, index: int) -> str:
        """Returns what the record is called, for messages."""


@dataclasses.dataclass(frozen=True)
class Records:
    """The endless sequence of checked records behind a feed (a Grain source).

    Element p is {top: array} of record p, counted from where the feed starts, through
    all epochs; on one of several hosts only the positions of its rows are counted.
    """

    source: Source
    tops: tuple[tuple[str, str], ...]  # (the source's name, top)
    title: str  # file, line, layer, for messages
    seed: int
    shuffle: bool
    skip: int
    batch_size: int
    shard: tuple[int, int] = (0, 1)
    crop: tuple[int, bool] | None = None  # crop_size, whether at random
    expected: Mapping[str, tuple[tuple[int, ...], np.dtype]] | None = None
    limits: Mapping[str, tuple[int, int | None]] | None = None

    def __len__(self) -> int:
        # Grain wants a number; nobody comes this far.
        return 2**48

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        """Returns {top: array} of the record at this host's row `row`."""
        position = self._position(row)
        index = self.index(position)
        try:
            record = self.source[index]
        except CaffeError as error:
            raise DataError(f"{self.title}: {error}") from error
        result = {top: record[name] for name, top in self.tops}
        if self.crop is not None:
            top = self.tops[0][1]
            result[top] = self._crop(result[top], position, index)
        if self.expected is not None:
            self._check_struct(result, index)
        for top, (classes, ignored) in (self.limits or {}).items():
            self._check_label(result[top], top, classes, ignored, index)
        return result

    def index(self, position: int) -> int:
        """Returns the source's index of the record at a position of the sequence."""
        epoch, index = divmod(position + self.skip, len(self.source))
        if not self.shuffle:
            return index
        groups = self.source.groups or (len(self.source),)
        return int(_permutation(groups, self.seed, epoch)[index])

    def _position(self, row: int) -> int:
        index, count = self.shard
        local = self.batch_size // count
        batch, rest = divmod(row, local)
        return batch * self.batch_size + index * local + rest

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

    def _check_struct(self, record: dict[str, np.ndarray], index: int) -> None:
        assert self.expected is not None
        for top, (shape, dtype) in self.expected.items():
            array = record[top]
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

    def _check_label(
        self, label: np.ndarray, top: str, classes: int, ignored: int | None, index: int
    ) -> None:
        is_bad = (label < 0) | (label >= classes)
        if ignored is not None:
            is_bad &= label != ignored
        if is_bad.any():
            value = np.asarray(label)[is_bad].flat[0]
            raise self.error(
                index,
                f'label {value:g} in top "{top}" has no class; the net has {classes}',
                f"0 to {classes - 1}"
                + ("" if ignored is None else f", or ignore_label {ignored}"),
            )

    def error(self, index: int, problem: str, accepted: str) -> DataError:
        """Returns an error that names the layer, the record and its source."""
        place = f'{self.title}: record "{self.source.key(index)}" of {self.source!r}'
        return DataError(describe(place, problem, accepted))


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


@functools.lru_cache(maxsize=4)
def _permutation(groups: tuple[int, ...], seed: int, epoch: int) -> np.ndarray:
    """Returns an order of sum(groups) records that keeps each group together."""
    bits = _bits(seed, _ORDER, epoch)
    starts = np.concatenate([[0], np.cumsum(groups)])
    order = np.argsort(bits.random_raw(len(groups)), kind="stable")
    return np.concatenate(
        [
            starts[group] + np.argsort(bits.random_raw(groups[group]), kind="stable")
            for group in order
        ]
    )


def describe_sizes(shape: tuple[int, ...]) -> str:
    """Returns a shape as text, such as 3x227x227."""
    return "x".join(map(str, shape)) if shape else "a single value"
