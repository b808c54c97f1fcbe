"""What can be seen of a run from outside while it goes on.

The loop writes it, at the cost of setting an attribute; whoever shows it reads it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class RunView:
    """Where a run stands.

    Attributes:
      max_iter: iteration at which it ends.
      images: records of one iteration, over all devices; 0 where that is not known.
      iteration: updates begun.
      loss: as last displayed, None before that.
      accuracy: of the first test net that has one, as last tested; None before that.
      speed: iterations/s between the last two displays; 0 before that.
      testing: number of the test net that is at work, None in training.
    """

    max_iter: int
    images: int = 0
    iteration: int = 0
    loss: float | None = None
    accuracy: float | None = None
    speed: float = 0.0
    testing: int | None = None
    _mark: tuple[float, int] | None = field(default=None, repr=False)

    def show(self, loss: float, speed: float) -> None:
        """Notes what a display says of the iteration that is under way."""
        # The first one is mostly compilation, from which nothing follows.
        if self._mark is None:
            self._mark = (time.monotonic(), self.iteration)
        else:
            self.speed = speed
        self.loss = loss

    def seconds_left(self) -> float | None:
        """Returns how long the rest will take if it goes on so, tests included."""
        if self._mark is None or self.iteration <= self._mark[1]:
            return None
        begin, first = self._mark
        each = (time.monotonic() - begin) / (self.iteration - first)
        return max(self.max_iter - self.iteration, 0) * each
