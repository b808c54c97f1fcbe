"""Runs a script that imports caffe: `python -m jaxcaffe.pycaffe SCRIPT [ARGS...]`.

Follows what the python command does with a script, with PYTHONPATH=caffe/python.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence

USAGE = """\
usage: python -m jaxcaffe.pycaffe SCRIPT [ARGS...]
       python -m jaxcaffe.pycaffe -m MODULE [ARGS...]

Runs a Python script, or a module, in which `import caffe` finds jaxcaffe.pycaffe."""


def main(argv: Sequence[str]) -> int:
    """Runs the script as `python SCRIPT [ARGS...]` would.

    What JAX compiles is kept for the next start, see compile_cache. sys.argv,
    sys.path[0] and the module __main__ are the script's. What it raises
    passes through, SystemExit included, so that the process ends as python's would.

    Args:
      argv: the arguments without the program's name.

    Returns:
      0; 2 where there is nothing to run.
    """
    first, *rest = argv or [""]
    if first in ("-h", "--help"):
        print(USAGE)
        return 0
    is_module = first == "-m"
    if not argv or (is_module and not rest) or (first[:1] == "-" and not is_module):
        print(USAGE, file=sys.stderr)
        return 2
    from jaxcaffe import compile_cache
    from jaxcaffe.cpu import tune_cpu
    from jaxcaffe.pycaffe.alias import install

    tune_cpu()
    compile_cache.turn_on()
    install()
    if is_module:
        # sys.path[0] is the working directory already, as with `python -m MODULE`.
        sys.argv[:] = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        return 0
    return _run_script(first, rest)


def _run_script(path: str, arguments: Sequence[str]) -> int:
    try:
        os.stat(path)
    except (OSError, ValueError) as error:
        print(
            f"python -m jaxcaffe.pycaffe: can't open file {path!r}: {error}",
            file=sys.stderr,
        )
        return 2
    sys.argv[:] = [path, *arguments]
    if not sys.flags.safe_path:
        del sys.path[0]
        if os.path.isfile(path) and not _is_archive(path):
            sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
    # Of a folder or an archive it runs __main__.py, and enters it into sys.path itself.
    runpy.run_path(path, run_name="__main__")
    return 0


def _is_archive(path: str) -> bool:
    import zipfile

    return zipfile.is_zipfile(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
