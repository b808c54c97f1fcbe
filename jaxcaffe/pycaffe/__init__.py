"""pycaffe's interface over this package's core: `import jaxcaffe.pycaffe as caffe`.

Follows caffe/python/caffe/__init__.py. Every name is imported when it is first asked
for, so that the parts without nets (io, net_spec, coord_map) load no JAX. Scripts that
say `import caffe` run unchanged with `python -m jaxcaffe.pycaffe SCRIPT`, or after
`jaxcaffe.pycaffe.install()`.
"""

from __future__ import annotations

import contextlib
import importlib
import random
from collections.abc import Iterator
from typing import Any

_MODES = "jaxcaffe.pycaffe.modes"
_NET_SPEC = "jaxcaffe.pycaffe.net_spec"
_SCHEMA = "jaxcaffe.proto.caffe_pb2"
_SOLVER = "jaxcaffe.pycaffe.solver"

_HOMES = {
    "Net": "jaxcaffe.pycaffe.net",
    "Blob": "jaxcaffe.pycaffe.blob",
    "BlobVec": "jaxcaffe.pycaffe.blob",
    "Layer": "jaxcaffe.pycaffe.layer",
    "layer_type_list": "jaxcaffe.pycaffe.layer",
    **dict.fromkeys(
        (
            *("SGDSolver", "NesterovSolver", "AdaGradSolver", "RMSPropSolver"),
            *("AdaDeltaSolver", "AdamSolver", "Solver", "get_solver"),
        ),
        _SOLVER,
    ),
    **dict.fromkeys(
        (
            *("set_mode_cpu", "set_mode_gpu", "set_device", "set_random_seed"),
            *("init_log", "log", "has_nccl", "NCCL", "Timer", "set_multiprocess"),
            *("solver_count", "set_solver_count", "solver_rank", "set_solver_rank"),
        ),
        _MODES,
    ),
    **dict.fromkeys(("layers", "params", "NetSpec", "to_proto"), _NET_SPEC),
    **dict.fromkeys(("TRAIN", "TEST", "SolverParameter", "LayerParameter"), _SCHEMA),
    "Classifier": "jaxcaffe.pycaffe.classifier",
    "Detector": "jaxcaffe.pycaffe.detector",
    "install": "jaxcaffe.pycaffe.alias",
    "uninstall": "jaxcaffe.pycaffe.alias",
}
"""Name -> module that has it."""

_MODULES = {
    "proto": "jaxcaffe.proto",
    # In Caffe the modules of its own additions, and of what is compiled from C++.
    "pycaffe": "jaxcaffe.pycaffe",
    "_caffe": "jaxcaffe.pycaffe",
    **{
        name: f"jaxcaffe.pycaffe.{name}"
        for name in ("io", "net_spec", "coord_map", "draw", "classifier", "detector")
    },
}
"""Name -> module that it is."""

__all__ = sorted({*_HOMES, *_MODULES, "__version__"} - {"pycaffe", "_caffe"})

__version__ = "1.0.0"
"""Of the Caffe whose interface this is."""


def __getattr__(name: str) -> Any:
    """Imports one of the public names.

    Raises:
      AttributeError: any other name.
    """
    with _same_random_numbers():
        if name in _MODULES:
            # caffe.proto.caffe_pb2 is there without an import of its own.
            importlib.import_module(_SCHEMA)
            value: Any = importlib.import_module(_MODULES[name])
        elif name in _HOMES:
            value = getattr(importlib.import_module(_HOMES[name]), name)
        else:
            raise AttributeError(f"module 'jaxcaffe.pycaffe' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


@contextlib.contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Leaves the generators of `random` and `numpy.random` as they were.

    Libraries draw from them when they are imported, here perhaps after a script's seed.
    """
    import numpy as np

    ours, numpys = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)
