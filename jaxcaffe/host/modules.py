"""Finds and imports the user's own modules, and says where their code failed.

Follows caffe/src/caffe/layer_factory.cpp, GetPythonLayer.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from types import ModuleType

from jaxcaffe.errors import LayerError, nearest

_PYCAFFE = "jaxcaffe.pycaffe"
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_LIBRARIES = ("stdlib", "platstdlib", "purelib", "platlib")
_FOREIGN = {_PACKAGE, *map(sysconfig.get_path, _LIBRARIES)}


@contextlib.contextmanager
def user_code(folders: Sequence[str]) -> Iterator[None]:
    """Lets imports find modules in more folders, and `import caffe` this package.

    Both hold inside the block alone, so that a Caffe that is installed stays what
    `caffe` means elsewhere. `jaxcaffe.pycaffe.install()` makes the name stay.

    Args:
      folders: searched after sys.path; "" is the working directory.
    """
    added = list(map(os.path.abspath, folders))
    sys.path += added
    # By name, for nothing below an entry imports one; only the user's code asks for it.
    alias = importlib.import_module(f"{_PYCAFFE}.alias")
    hooks = len(sys.meta_path)
    alias.install()
    installed = len(sys.meta_path) > hooks
    try:
        yield
    finally:
        if installed:
            alias.uninstall()
        for folder in added:
            # From the end, where ours are, unless the user's code took them away.
            for index in reversed(range(len(sys.path))):
                if sys.path[index] == folder:
                    del sys.path[index]
                    break


def import_class(module: str, name: str, folders: Sequence[str]) -> type:
    """Imports a class as a layer's python_param names it.

    Args:
      module: dotted name; found on sys.path, then in `folders`. Where something else
        of this name has been imported before, from elsewhere, the file that is found
        now counts.
      name: of the class.
      folders: as `user_code` takes them.

    Raises:
      LayerError: there is no such module or class, or importing it fails.
    """
    loaded = import_module(module, folders)
    if not hasattr(loaded, name):
        known = [key for key, value in vars(loaded).items() if isinstance(value, type)]
        raise LayerError(
            f'module "{module}" ({_file_of(loaded)}) has no class "{name}"',
            nearest(name, known),
        )
    return getattr(loaded, name)


def import_module(name: str, folders: Sequence[str]) -> ModuleType:
    """Imports a module; see `import_class`.

    Raises:
      LayerError: there is no such module, or importing it fails.
    """
    with user_code(folders):
        importlib.invalidate_caches()
        _forget_other(name)
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            # Of a dotted name the package may be what is missing.
            if error.name is not None and f"{name}.".startswith(f"{error.name}."):
                places = ", ".join(f'"{os.path.abspath(f)}"' for f in folders)
                raise LayerError(
                    f'there is no module "{name}"',
                    f"a module on PYTHONPATH, or in {places}",
                ) from error
            raise LayerError(*blame(error)) from error
        except (Exception, SystemExit) as error:
            raise LayerError(*blame(error)) from error


def load_file(path: str) -> ModuleType:
    """Runs a file of the user's as a module named like the file, each time anew.

    Raises:
      LayerError: there is no such file, or running it fails.
    """
    if not os.path.isfile(path):
        raise LayerError(f'there is no file "{path}"', "a Python file")
    name = os.path.basename(path).removesuffix(".py")
    spec = importlib.util.spec_from_file_location(name, os.path.abspath(path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # where pickle and inspect look for it
    try:
        with user_code(("", os.path.dirname(path))):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        raise LayerError(*blame(error)) from error
    return module


def blame(error: BaseException, file: str | None = None) -> tuple[str, str]:
    """Says in one line where the user's code failed and how.

    Args:
      error: with the traceback of its way from the user's code to us.
      file: that the code belongs to, if it is known.

    Returns:
      `file:line: Type: message`, and what would be accepted if we know better than the
      message. The line is the innermost of the user's own files, or of `file`.
    """
    message = " ".join(str(error).split())
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{_shorten(error.filename)}:{error.lineno}: "
        message = error.msg
    else:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if _is_users(f.filename)] or [
            f for f in frames if file is not None and f.filename == file
        ]
        place = f"{_shorten(own[-1].filename)}:{own[-1].lineno}: " if own else ""
    if isinstance(error, LayerError):
        return f"{place}{error.problem}", error.accepted
    problem = f"{place}{type(error).__name__}" + (f": {message}" if message else "")
    return problem, _HINTS.get(message, "")


_HINTS = {
    "assignment destination is read-only": "code that writes to its tops and to diffs; "
    "to change a bottom, a top of the bottom's name; to change own blobs, backward"
}


def _forget_other(name: str) -> None:
    """Drops a module imported earlier if another file would be found now."""
    loaded = sys.modules.get(name)
    if loaded is None or "." in name or not getattr(loaded, "__file__", None):
        return
    spec = importlib.machinery.PathFinder.find_spec(name)
    if spec is None or spec.origin is None or not os.path.exists(spec.origin):
        return
    if os.path.realpath(spec.origin) != os.path.realpath(str(loaded.__file__)):
        del sys.modules[name]


def _is_users(file: str) -> bool:
    path = os.path.abspath(file)
    return os.path.isfile(path) and not any(
        path.startswith(f"{folder}{os.sep}") for folder in _FOREIGN
    )


def _file_of(module: ModuleType) -> str:
    return _shorten(getattr(module, "__file__", None) or "no file")


def _shorten(file: str) -> str:
    """Returns the path as seen from the working directory, where that is shorter."""
    if not os.path.isabs(file):
        return file
    return min(os.path.relpath(file), file, key=len)
