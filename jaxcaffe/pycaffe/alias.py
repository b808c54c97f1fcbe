"""Lets `import caffe` find this package, for as long as somebody wants it to.

Follows the module names of caffe/python/caffe.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

from jaxcaffe.errors import ConfigError, describe

_HOME = "jaxcaffe.pycaffe"
_SCHEMA = "jaxcaffe.proto.caffe_pb2"

_TARGETS = {
    "caffe": _HOME,
    # The module of pycaffe's own additions, and the one compiled from C++.
    "caffe.pycaffe": _HOME,
    "caffe._caffe": _HOME,
    **{
        f"caffe.{name}": f"{_HOME}.{name}"
        for name in ("io", "net_spec", "coord_map", "draw", "classifier", "detector")
    },
    "caffe.proto": "jaxcaffe.proto",
    "caffe.proto.caffe_pb2": _SCHEMA,
    # A script's own copy of the schema would define every message a second time, which
    # protobuf refuses.
    "caffe_pb2": _SCHEMA,
}
"""Caffe's name of a module -> ours."""


def install() -> None:
    """Makes `import caffe`, and the modules below it, find this package.

    The modules are the very ones of this package under a second name, `caffe_pb2` too:
    a message made by either name fits both. A second call changes nothing.

    Raises:
      ConfigError: another caffe, or another copy of its schema, has been imported.

    Source: caffe/python/caffe/__init__.py. Differs: modules that Caffe does not have
    are not found, whatever else lies on the path under the name caffe.
    """
    for name in _TARGETS:
        module = sys.modules.get(name)
        if module is not None and not _is_ours(module):
            raise ConfigError(
                describe(
                    "install",
                    f"{name} has been imported already, from "
                    f"{getattr(module, '__file__', None) or 'elsewhere'}",
                    "install() before anything imports caffe",
                )
            )
    if _finder not in sys.meta_path:
        # First, so that a caffe that lies on the path, such as that of a checkout whose
        # scripts are run, does not win.
        sys.meta_path.insert(0, _finder)


def uninstall() -> None:
    """Takes back what `install` did; modules that were imported keep working."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
    for name in _TARGETS:
        module = sys.modules.get(name)
        if module is not None and _is_ours(module):
            del sys.modules[name]


def _is_ours(module: ModuleType) -> bool:
    return module is sys.modules.get(module.__name__) and module.__name__ in set(
        _TARGETS.values()
    )


class _Finder(importlib.abc.MetaPathFinder):
    """Finds Caffe's names, and nothing else below `caffe`."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname in _TARGETS:
            return importlib.machinery.ModuleSpec(fullname, _Loader())
        if fullname.startswith("caffe."):
            # The search would go on in our folders and load our files a second time.
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


class _Loader(importlib.abc.Loader):
    """Puts our module in the place of the empty one that Python has made."""

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        sys.modules[name] = importlib.import_module(_TARGETS[name])
        if name == "caffe":
            # `import caffe` alone gives caffe.proto.caffe_pb2.
            importlib.import_module(_SCHEMA)


_finder = _Finder()
