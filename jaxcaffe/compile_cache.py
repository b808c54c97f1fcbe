"""Compiled programs kept on disk, so that a second start need not compile again.

JAX does the keeping; here is where, how much, and how damaged entries go.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import sys
import zlib
from pathlib import Path

MOST_BYTES = 1 << 30
"""What the folder may hold when a program starts; the entries used last stay."""

_SETTINGS = {
    "jax_compilation_cache_dir": "",
    # The many programs that compile in no time still take a second or two together.
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
_ZSTD_START = b"\x28\xb5\x2f\xfd"
_CHECKED = "checked"  # entries older than this file are known to be whole


def turn_on() -> None:
    """Has JAX keep what it compiles; call once, before anything is compiled.

    Whoever has set JAX_COMPILATION_CACHE_DIR or JAX_ENABLE_COMPILATION_CACHE decides
    alone. A folder that cannot be written leaves everything as it is, without a word:
    programs are then compiled as if there were none.
    """
    if {
        "JAX_COMPILATION_CACHE_DIR",
        "JAX_ENABLE_COMPILATION_CACHE",
    } & os.environ.keys():
        return
    folder = find_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        sweep(folder, MOST_BYTES)
    except OSError:
        return
    settings = {**_SETTINGS, "jax_compilation_cache_dir": str(folder)}
    if "jax" in sys.modules:
        for name, value in settings.items():
            sys.modules["jax"].config.update(name, value)
    else:  # read when JAX is imported, which tools without a net never do
        os.environ.update({k.upper(): str(v) for k, v in settings.items()})


def find_folder() -> Path:
    """Returns XDG_CACHE_HOME/jaxcaffe/compiled-MACHINE.

    MACHINE stands for what the processor can do: a home that several machines share
    must not hand one of them a program made for another.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    digest = hashlib.sha256(_describe_processor().encode()).hexdigest()[:12]
    return Path(base, "jaxcaffe", f"compiled-{digest}")


def sweep(folder: Path, most: int) -> None:
    """Removes what a killed process left half written, and the oldest beyond `most`.

    Args:
      folder: of the entries.
      most: bytes that may stay.

    Raises:
      OSError: the folder cannot be written.
    """
    stamp = folder / _CHECKED
    since = stamp.stat().st_mtime_ns if stamp.exists() else 0
    stamp.touch()
    kept: list[tuple[int, int, Path]] = []
    for entry in folder.glob("*-cache"):
        # Another process may be sweeping too.
        with contextlib.suppress(FileNotFoundError):
            status = entry.stat()
            if status.st_mtime_ns >= since and not _is_whole(entry.read_bytes()):
                entry.unlink()
            else:
                used = max(status.st_atime_ns, status.st_mtime_ns)
                kept.append((used, status.st_size, entry))
    size = sum(bytes for _, bytes, _ in kept)
    for _, bytes, entry in sorted(kept):
        if size <= most:
            break
        entry.unlink(missing_ok=True)
        size -= bytes


def _is_whole(content: bytes) -> bool:
    """Tells whether a compressed entry reaches its end."""
    try:
        _decompress(content)
    except Exception:  # each library has errors of its own, and may be missing
        return False
    return True


def _decompress(content: bytes) -> bytes:
    if not content.startswith(_ZSTD_START):
        return zlib.decompress(content)
    # JAX takes whichever there is.
    in_python = importlib.util.find_spec("compression") is not None
    zstd = importlib.import_module("compression.zstd" if in_python else "zstandard")
    return zstd.decompress(content)


def _describe_processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        # Lines of the first core: what it is called, and what it can do (on ARM,
        # "Features").
        lines = file.read().split("\n\n")[0].splitlines()
        names = ("model name", "flags", "Features", "CPU part")
        found = [line for line in lines if line.startswith(names)]
        if found:
            return "\n".join(found)
    return f"{platform.machine()} {platform.processor()}"
