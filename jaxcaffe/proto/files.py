"""Reads whole files with one clear error and writes them all or not at all.

Follows Caffe's src/caffe/util/io.cpp (ReadProtoFrom..., WriteProtoTo...).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from jaxcaffe import disk
from jaxcaffe.errors import CaffeError, describe, nearest

_PART = re.compile(r"\.(.+)\.(\d+)\.part")  # name and process
_NEIGHBOURS = 5  # files named when one is missing


def read_bytes(path: str | os.PathLike[str], error: type[CaffeError]) -> bytes:
    """Returns a file's bytes.

    Raises:
      error: the file is missing (its neighbours with a like name are told), is a
        folder, is empty or may not be read.

    Source: src/caffe/util/io.cpp, ReadProtoFromBinaryFile. Differs: an empty file is
      refused, which Caffe takes for an empty message.
    """
    name = os.fspath(path)
    if os.path.isdir(name):
        raise error(describe(name, "is a folder", "the name of a file"))
    try:
        os.stat(name)
    except FileNotFoundError:
        raise error(describe(name, *_describe_missing(Path(name)))) from None
    except (OSError, ValueError):
        pass  # reading tells
    data = read_content(name, error)
    if not data:
        raise error(describe(name, "the file is empty"))
    return data


def read_content(path: str, error: type[CaffeError]) -> bytes:
    """Returns a file's bytes, of which there may be none, without looking around it.

    Raises:
      error: the file is missing or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as cause:
        reason = cause.strerror or str(cause)
    except ValueError as cause:  # a NUL in the name
        reason = str(cause)
    raise error(describe(show_path(path), f"cannot be read: {reason}"))


def show_path(path: str) -> str:
    """Returns a path as printable text, also when its bytes are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def refuse_missing(path: str | os.PathLike[str], error: type[CaffeError]) -> None:
    """Raises the error of `read_bytes` where there is nothing of this name."""
    if not os.path.exists(path):
        name = os.fspath(path)
        raise error(describe(name, *_describe_missing(Path(name))))


def write_bytes(
    path: str | os.PathLike[str], data: bytes, error: type[CaffeError]
) -> None:
    """Writes a file so that a crash leaves the old file or the new one, whole.

    Raises:
      error: the folder is missing or may not be written to, or the disk is full.

    Source: src/caffe/util/io.cpp, WriteProtoToBinaryFile. Differs: Caffe writes in
      place.
    """
    write_atomically(path, lambda file: file.write(data), error)


def write_atomically(
    path: str | os.PathLike[str],
    write: Callable[[BinaryIO], object],
    error: type[CaffeError],
) -> None:
    """Calls `write` with a file that becomes `path` only when all is on the disk.

    Raises:
      error: as `write_bytes`.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")  # as _PART has it
    try:
        if target.is_dir():
            raise error(describe(str(target), "is a folder", "the name of a file"))
        with open(part, "wb") as file:
            write(file)
            file.flush()
            disk.sync(file.fileno())
        os.replace(part, target)
    except OSError as cause:
        raise error(
            describe(str(target), f"cannot be written ({cause.strerror})")
        ) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def remove_leftovers(folder: str | os.PathLike[str], name: re.Pattern[str]) -> None:
    """Removes what killed processes had begun to write, as far as that is allowed.

    Args:
      folder: that is looked at; need not be there.
      name: of the files that were to be.
    """
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            found = _PART.fullmatch(entry.name)
            if found and name.fullmatch(found[1]) and not _is_alive(int(found[2])):
                os.remove(entry)


def _is_alive(process: int) -> bool:
    """Returns whether another process has this id. Ours may be a dead one's again."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _describe_missing(path: Path) -> tuple[str, str]:
    folder = path.parent
    if not folder.is_dir():
        return f'no such file: the folder "{folder}" does not exist', ""
    names: list[str] = []
    if path.suffix:
        with contextlib.suppress(OSError):
            names = [p.name for p in folder.iterdir() if p.suffix == path.suffix]
    close = nearest(path.name, names).split(", ")[:_NEIGHBOURS]
    return "no such file", f"a file such as {', '.join(close)}" if names else ""
