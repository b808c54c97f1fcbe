"""Settings of a user's own layer, for which no message has a field.

Follows caffe/src/caffe/proto/caffe.proto, PythonParameter, which gives them a place.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

from jaxcaffe.errors import LayerError, nearest
from jaxcaffe.proto import caffe_pb2


def read_settings(
    layer: caffe_pb2.LayerParameter, **defaults: Any
) -> Mapping[str, Any]:
    """Reads `python_param { param_str: '{"ratio": 4}' }` over defaults.

    Args:
      layer: whose param_str is JSON, a Python dict literal, or empty.
      **defaults: every setting there is. A value must be of its default's type, an int
        where a float is; any value does for None.

    Returns:
      Setting -> value.

    Raises:
      LayerError: param_str is no dict; a setting is unknown or of another type.
    """
    given = _parse(layer.python_param.param_str)
    for name, value in given.items():
        if name not in defaults:
            raise LayerError(
                f'param_str sets "{name}", which the layer does not know',
                nearest(str(name), defaults) or "no settings",
            )
        default = defaults[name]
        if isinstance(default, float) and type(value) is int:
            given[name] = float(value)
        elif default is not None and type(value) is not type(default):
            raise LayerError(
                f"param_str sets {name} to {value!r}",
                f"a value of type {type(default).__name__}, such as {default!r}",
            )
    return {**defaults, **given}


def _parse(text: str) -> dict[Any, Any]:
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        try:
            value = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
    if not isinstance(value, dict):
        raise LayerError(
            f"param_str {text!r} cannot be read", """'{"name": value}', as JSON"""
        )
    return value
