"""What a snapshot says of its run: where its records stand, seed, solver, environment.

Caffe's .solverstate says of these the iteration alone.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from jaxcaffe import errors
from jaxcaffe.checkpoint.folder import is_leftover, steps

Positions = Mapping[str, Mapping[str, int]]
"""Net ("train", "test0") -> data layer -> records that the steps have consumed."""

STATE, NOTE = "state", "note"
"""The two parts of a snapshot, each a folder in it."""

_LONGEST = 200  # characters of a library's own message


class BrokenSnapshotError(errors.SnapshotError):
    """A snapshot that was damaged, so that it cannot be read."""


def read_note(path: str) -> dict[str, Any]:
    """Reads a snapshot's note: "positions", "seed", "environment" and more.

    Args:
      path: the folder of one snapshot, `.../snapshots/1000`.

    Raises:
      SnapshotError: no snapshot there, or no readable note in it.
    """
    with reading(path):
        return note_handler().restore(epath.Path(path) / NOTE)


def read_newest_note(folder: str) -> dict[str, Any]:
    """Reads the note of the newest snapshot whose note is whole.

    Raises:
      SnapshotError: there is no snapshot, or no whole note.
    """
    problem = nothing_to_resume(folder)
    for step in reversed(steps(folder)):
        try:
            return read_note(os.path.join(folder, str(step)))
        except BrokenSnapshotError as error:
            problem = error
    raise problem


def note_handler() -> ocp.JsonCheckpointHandler:
    """Returns what writes and reads notes."""
    return ocp.JsonCheckpointHandler("metadata")


def nothing_to_resume(folder: str) -> errors.SnapshotError:
    """Returns the error for a folder without snapshots."""
    return errors.SnapshotError(
        errors.describe(
            folder, "holds no snapshot to resume from", "a run that has taken one"
        )
    )


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Makes a SnapshotError of whatever fails while a snapshot is read inside.

    Raises:
      BrokenSnapshotError: it is damaged.
      SnapshotError: it is no snapshot, or cannot be read for another reason.
    """
    is_named = os.path.basename(os.path.abspath(path)).isdecimal()
    is_state = os.path.isdir(os.path.join(path, STATE)) and not is_leftover(path)
    if not (is_state or (is_named and os.path.isdir(path))):
        raise errors.SnapshotError(
            errors.describe(
                path, "is not a snapshot", "a folder such as runs/NAME/snapshots/1000"
            )
        )
    try:
        yield
    except errors.CaffeError:
        raise
    except Exception as error:
        kind = BrokenSnapshotError if _is_damage(error) else errors.SnapshotError
        raise kind(
            errors.describe(
                path,
                f"the snapshot cannot be read ({first_line(error)})",
                "another snapshot of the run",
            )
        ) from error


def first_line(error: Exception) -> str:
    """Returns what a library says of its failure, the end of it if that is long."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    # What follows is TensorStore's own settings; what it says last is the reason.
    line = re.split(r"\.? See full TensorStore | \[tensorstore_spec=", line)[0]
    return line if len(line) <= _LONGEST else f"... {line[-_LONGEST:]}"


def _is_damage(error: Exception) -> bool:
    """Tells files that are cut, missing or garbled from memory or disks that fail."""
    if any(code in str(error) for code in ("RESOURCE_EXHAUSTED", "UNAVAILABLE")):
        return False
    missing = (FileNotFoundError, NotADirectoryError)
    return isinstance(error, (*missing, ValueError, KeyError, AttributeError))
