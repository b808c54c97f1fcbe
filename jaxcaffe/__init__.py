"""Caffe, reimplemented functionally on JAX.

`from jaxcaffe import Classifier, CaffeError, load_config`. What a name needs is
imported when the name is first asked for, so that `import jaxcaffe` loads no JAX.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxcaffe.classifier import Classifier
    from jaxcaffe.config import load_config
    from jaxcaffe.errors import CaffeError

__all__ = ["CaffeError", "Classifier", "load_config"]

_HOMES = {
    "CaffeError": "jaxcaffe.errors",
    "Classifier": "jaxcaffe.classifier",
    "load_config": "jaxcaffe.config",
}


def __getattr__(name: str) -> Any:
    """Imports one of the public names.

    Raises:
      AttributeError: any other name; `from jaxcaffe import NAME` then looks for a
        module.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxcaffe' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
