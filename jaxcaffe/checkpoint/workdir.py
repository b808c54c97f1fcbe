"""One run at a time in a workdir.

No counterpart in Caffe, where two runs with one snapshot_prefix mix their files.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from jaxcaffe import errors


@contextlib.contextmanager
def hold_workdir(workdir: str) -> Iterator[None]:
    """Keeps other runs out of a workdir while this one uses it.

    The lock goes when the process does, however it ends.

    Raises:
      ConfigError: another run uses it, or it cannot be made.
    """
    try:
        os.makedirs(workdir, exist_ok=True)
        lock = open(os.path.join(workdir, ".lock"), "w")  # noqa: SIM115
    except OSError as error:
        raise errors.ConfigError(
            errors.describe(
                workdir,
                f"cannot be used as workdir ({error.strerror})",
                "a folder that can be made and written",
            )
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise errors.ConfigError(
                errors.describe(
                    workdir,
                    "another run uses this workdir",
                    "another --config.workdir, or the end of that run",
                )
            ) from None
        except OSError:
            pass  # Some network file systems cannot lock; nothing else depends on it.
        yield
