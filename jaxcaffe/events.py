"""When tests, displays and snapshots fall due, and how far it is to the next of them.

Follows the conditions in Solver::Step of caffe/src/caffe/solver.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence


def is_due(iteration: int, interval: int) -> bool:
    """Says whether what is done every `interval` iterations is due; 0 is never."""
    return interval > 0 and iteration % interval == 0


def has_passed(before: int, after: int, interval: int) -> bool:
    """Says whether going on from `before` to `after` reached a multiple of interval."""
    return before // interval < after // interval


def count_until_event(
    iteration: int,
    most: int,
    max_iter: int,
    before: Sequence[int] = (),
    after: Sequence[int] = (),
) -> int:
    """Returns how many iterations may run at once without an event between them.

    Args:
      iteration: updates done; less than max_iter.
      most: the largest answer; at least 1.
      max_iter: where training ends.
      before: intervals of what happens before iterations that they divide, whether it
        has happened before this one or not; 0 for never.
      after: intervals of what happens after such iterations.
    """
    ends = [iteration + most, max_iter]
    ends += [iteration - iteration % n + n for n in before if n > 0]
    ends += [iteration + -iteration % n + 1 for n in after if n > 0]
    return min(ends) - iteration
