"""Errors that a user's own files or commands can cause.

Every message follows one template, `{where}: {problem}. Accepted: {accepted}.`, and
entry points print it without a traceback. A mistake of ours is an `assert` instead.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import re
from collections.abc import Iterable, Iterator

_MOST_NAMES = 100  # so that all layer types are listed, not all data sets there are
_FIRST_NAMES = 10


class CaffeError(Exception):
    """Base of every error that a user can cause and mend."""


class PrototxtError(CaffeError):
    """A net or solver file says something that cannot be."""


class ConfigError(CaffeError):
    """A config, a command line or an option is wrong."""


class DataError(CaffeError):
    """A database, list, image or label is missing, broken or does not fit."""


class SnapshotError(CaffeError):
    """A snapshot or weight file is missing, broken or belongs to another net."""


class NonFiniteError(CaffeError):
    """Training met a loss that is not a finite number."""


class UserCodeError(CaffeError):
    """A layer in Python failed while the net ran."""


class LayerError(CaffeError):
    """A layer refuses its parameters or its bottoms.

    Layers raise it without knowing where they stand; the net adds file, line and
    layer name and raises it again as `PrototxtError`.

    Args:
      problem: what is wrong, with the value, as a clause without a full stop.
      accepted: the values that would do, or an example; empty if there are none.
    """

    def __init__(self, problem: str, accepted: str = "") -> None:
        super().__init__(describe("", problem, accepted))
        self.problem = problem
        self.accepted = accepted


@contextlib.contextmanager
def from_callbacks() -> Iterator[None]:
    """Raises again, as itself, what a callback raised inside a compiled program.

    JAX reports only its text, at the end of a long one, in an error of its own, and
    logs its traceback, which is kept quiet meanwhile.

    Raises:
      CaffeError: the callback's, without its cause.
    """
    logger = logging.getLogger("jax._src.callback")
    logger.addFilter(_is_not_ours)
    try:
        yield
    except RuntimeError as error:
        found = re.findall(r"^(?:[\w.]+\.)?(\w+): (.+)$", str(error), re.MULTILINE)
        for name, message in reversed(found):
            kind = globals().get(name)
            if isinstance(kind, type) and issubclass(kind, CaffeError):
                raise kind(message) from None
        raise
    finally:
        logger.removeFilter(_is_not_ours)


def _is_not_ours(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], CaffeError))


def describe(where: str, problem: str, accepted: str = "") -> str:
    """Returns the one-line message `{where}: {problem}. Accepted: {accepted}.`.

    Args:
      where: `file:line`, a path, a flag; left out with its colon when empty.
      problem: a clause without a full stop.
      accepted: what would do instead; left out when empty.
    """
    head = f"{where}: " if where else ""
    tail = f" Accepted: {accepted.rstrip('.')}." if accepted else ""
    return f"{head}{problem.rstrip('.')}.{tail}"


def describe_layer(
    where: str, name: str, type_: str, problem: str, accepted: str = ""
) -> str:
    """Returns `{where}: layer "{name}" ({type}): {problem}. Accepted: {accepted}.`."""
    place = f'layer "{name}" ({type_})'
    return describe(f"{where}: {place}" if where else place, problem, accepted)


def plural(count: int, noun: str, nouns: str = "") -> str:
    """Returns "1 top", "2 tops" and so on; `nouns` where an s is not enough."""
    return f"{count} {noun}" if count == 1 else f"{count} {nouns or noun + 's'}"


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Returns the known names that look most like `name`, for "Accepted:".

    With no resemblance at all, all known names are listed, or the first of very many.
    """
    names = sorted(set(known))
    lowered = {n.lower(): n for n in names}
    close = difflib.get_close_matches(name.lower(), lowered, n=count, cutoff=0.6)
    if not close and len(names) > _MOST_NAMES:
        more = len(names) - _FIRST_NAMES
        return f"{', '.join(names[:_FIRST_NAMES])} and {more} more"
    return ", ".join([lowered[c] for c in close] or names)
