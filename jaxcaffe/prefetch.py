"""Host batches on their way to the devices, a few ahead of the step.

The copy of batch k + 1 runs while the devices work on batch k. Positions count the
batches handed to the step, never those under way, so a snapshot may be taken at any
time. A record that cannot be read is an error when its batch's turn comes, not before.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from jaxcaffe.errors import CaffeError, DataError, describe
from jaxcaffe.spec import Blobs

HostBatch = Mapping[str, np.ndarray]


class Reader(Protocol):
    """What data.pipeline.FeedReader offers."""

    @property
    def positions(self) -> Mapping[str, int]:
        """Data layer -> records handed out."""

    def __next__(self) -> HostBatch:
        """Returns the next host batch."""

    def close(self) -> None:
        """Ends the reader's threads."""


class DeviceFeed:
    """Iterator over device batches.

    Args:
      reader: gives host batches and the position after each.
      put: starts the copy of a host batch to the devices.
      group: host batches stacked into one device batch (iter_size); 1 stacks none.
      depth: device batches under way beside the one in use.

    Attributes:
      positions: data layer -> records in the batches handed out so far.
      waited: seconds spent waiting for the host so far.
    """

    def __init__(
        self,
        reader: Reader,
        put: Callable[[HostBatch], Blobs],
        group: int = 1,
        depth: int = 2,
    ) -> None:
        self.positions = dict(reader.positions)
        self.waited = 0.0
        self._reader = reader
        self._put = put
        self._group = group
        self._depth = depth
        self._ahead: deque[tuple[Blobs, dict[str, int]] | CaffeError] = deque()

    def __iter__(self) -> Iterator[Blobs]:
        """Returns itself."""
        return self

    def __next__(self) -> Blobs:
        """Returns the next device batch and starts the copy of a later one."""
        self.fill(self._depth + 1)
        return self._pop()

    def take(self, most: int) -> tuple[Blobs, ...]:
        """Returns the next device batches, `most` or fewer, but at least one.

        They end before one whose arrays differ in shape, and before a record that
        cannot be read, which is the error of the next call. Starts no copy beyond
        those; see `fill`.
        """
        self.fill(1)
        batches = [self._pop()]
        shapes = _shapes(batches[0])
        while len(batches) < most:
            self.fill(1)
            ready = self._ahead[0]
            if isinstance(ready, CaffeError) or _shapes(ready[0]) != shapes:
                break
            batches.append(self._pop())
        return tuple(batches)

    def fill(self, count: int | None = None) -> None:
        """Has `count` batches under way, by default `depth`, unless reading fails."""
        wanted = self._depth if count is None else count
        while len(self._ahead) < wanted and not self._has_failed():
            self._ahead.append(self._fetch())

    def close(self) -> None:
        """Stops the reader's threads and lets the batches go."""
        self._ahead.clear()
        self._reader.close()

    def _pop(self) -> Blobs:
        ready = self._ahead.popleft()
        if isinstance(ready, CaffeError):
            raise ready
        batch, self.positions = ready
        return batch

    def _has_failed(self) -> bool:
        return bool(self._ahead) and isinstance(self._ahead[-1], CaffeError)

    def _fetch(self) -> tuple[Blobs, dict[str, int]] | CaffeError:
        begin = time.perf_counter()
        try:
            parts = [next(self._reader) for _ in range(self._group)]
        except CaffeError as error:
            return error
        self.waited += time.perf_counter() - begin
        if self._group == 1:
            batch = parts[0]
        else:
            different = _find_difference(parts)
            if different is not None:
                return different
            batch = {name: np.stack([p[name] for p in parts]) for name in parts[0]}
        return self._put(batch), dict(self._reader.positions)


def _shapes(batch: Blobs) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in batch.items()}


def _find_difference(parts: Sequence[HostBatch]) -> DataError | None:
    """Returns an error if the batches of one iteration differ in shape."""
    for part in parts[1:]:
        for name, array in part.items():
            first = parts[0][name].shape
            if array.shape != first:
                return DataError(
                    describe(
                        f'blob "{name}"',
                        f"one batch has shape {first}, another of the same iteration "
                        f"{array.shape}",
                        "iter_size: 1, or images of one size (crop_size, or new_height "
                        "and new_width)",
                    )
                )
    return None
