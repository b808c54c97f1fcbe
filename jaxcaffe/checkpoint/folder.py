"""The folder of a run's snapshots, in which a folder called 1000 is always whole.

What is being written or removed has another name, so that a process killed at any
moment leaves nothing that looks like a snapshot. Follows
CheckSnapshotWritePermissions of caffe/src/caffe/solver.cpp.
"""

from __future__ import annotations

import os
import re
import shutil

from jaxcaffe import disk, errors

_STEP = re.compile(r"0|[1-9][0-9]*")
# The last is Orbax's own, in which versions before this one wrote.
_LEFTOVER = re.compile(r"[0-9]+\.(partial|removed|orbax-checkpoint-tmp).*")


def open_folder(folder: str) -> None:
    """Makes the folder if needed, sees that it can be written, and tidies it.

    What a killed process had begun to write or to remove goes. Only the run that holds
    the workdir may call this.

    Raises:
      SnapshotError: it cannot be made or written.

    Source: caffe/src/caffe/solver.cpp, CheckSnapshotWritePermissions. Differs: the
    folder is made.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        probe = os.path.join(folder, f".probe-{os.getpid()}")
        with open(probe, "wb"):
            pass
        os.remove(probe)
        for name in _leftovers(folder):
            shutil.rmtree(os.path.join(folder, name))
    except OSError as error:
        raise errors.SnapshotError(
            errors.describe(
                folder,
                f"cannot write snapshots here ({error.strerror})",
                "a workdir that may be written",
            )
        ) from error


def steps(folder: str) -> list[int]:
    """Returns the iterations of the complete snapshots in `folder`, ascending."""
    if not os.path.isdir(folder):
        return []
    return sorted(
        int(entry.name)
        for entry in os.scandir(folder)
        if _STEP.fullmatch(entry.name) and entry.is_dir()
    )


def is_leftover(path: str) -> bool:
    """Returns whether a path is that of a snapshot begun or half removed."""
    return bool(_LEFTOVER.fullmatch(os.path.basename(os.path.abspath(path))))


def begin(folder: str, step: int) -> str:
    """Returns the name under which to write a snapshot; nothing is there."""
    partial = os.path.join(folder, f"{step}.partial")
    discard(folder)
    return partial


def commit(folder: str, step: int) -> str:
    """Gives a written snapshot its name, once all of it is on the disk; returns it.

    Raises:
      OSError: the disk refuses.
    """
    partial = os.path.join(folder, f"{step}.partial")
    for parent, _, files in os.walk(partial):
        for name in (*files, "."):
            _sync(os.path.join(parent, name))
    path = os.path.join(folder, str(step))
    os.rename(partial, path)
    _sync(folder)
    return path


def discard(folder: str) -> None:
    """Removes what was written of snapshots that shall not be, as far as it can."""
    for name in _leftovers(folder):
        shutil.rmtree(os.path.join(folder, name), ignore_errors=True)


def _leftovers(folder: str) -> list[str]:
    return [name for name in os.listdir(folder) if _LEFTOVER.fullmatch(name)]


def remove(folder: str, step: int) -> None:
    """Removes a snapshot, which is no longer there from the first moment on.

    Raises:
      OSError: it may not be removed.
    """
    going = _free_name(os.path.join(folder, f"{step}.removed"))
    os.rename(os.path.join(folder, str(step)), going)
    shutil.rmtree(going)


def set_aside(path: str) -> str:
    """Renames a broken snapshot to NAME.broken or NAME.brokenK; returns the name."""
    aside = _free_name(f"{path}.broken")
    os.rename(path, aside)
    return aside


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        disk.sync(handle)
    finally:
        os.close(handle)


def _free_name(path: str) -> str:
    name, count = path, 1
    while os.path.exists(name):
        count += 1
        name = f"{path}{count}"
    return name
