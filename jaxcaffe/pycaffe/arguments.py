"""The arguments of pycaffe's Net, in today's form and in the older one.

Follows the constructors of caffe/python/caffe/_caffe.cpp.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxcaffe.log import logger
from jaxcaffe.proto import caffe_pb2

_NAMES = ("network_file", "phase", "level", "stages", "weights")


class Arguments(NamedTuple):
    """What a net is made of."""

    network_file: str
    state: caffe_pb2.NetState
    weights: str | None


def parse_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
    """Reads (network_file, phase, level=0, stages=None, weights=None).

    The older (network_file, weights, phase) is told by a path in the second place.

    Raises:
      TypeError: no such argument, or one that is needed is missing.
      ValueError: no such phase.
    """
    unknown = sorted(set(kwargs) - set(_NAMES))
    if unknown or len(args) > len(_NAMES):
        what = f"argument {unknown[0]}" if unknown else f"{len(args)} arguments"
        raise TypeError(f"Net has no {what}. Accepted: {', '.join(_NAMES)}")
    if len(args) == 3 and isinstance(args[1], (str, os.PathLike)):
        network_file, weights, phase = args
        logger.warning("DEPRECATION WARNING - deprecated use of Python interface")
        logger.warning('Use this instead (with the named "weights" parameter):')
        logger.warning("Net('%s', %s, weights='%s')", network_file, phase, weights)
        args = (network_file, phase)
        kwargs = {"weights": weights, **kwargs}
    given = dict(zip(_NAMES, args, strict=False))
    twice = sorted(given.keys() & kwargs.keys())
    if twice:
        raise TypeError(f"Net has got {twice[0]} twice")
    given |= kwargs
    for name, accepted in (
        ("network_file", "the path of a net prototxt"),
        ("phase", "caffe.TRAIN, caffe.TEST"),
    ):
        if name not in given:
            raise TypeError(f"Net needs a {name}. Accepted: {accepted}")
    state = caffe_pb2.NetState(
        level=int(given.get("level") or 0), stage=given.get("stages") or ()
    )
    state.phase = caffe_pb2.Phase.Name(int(given["phase"]))
    weights = given.get("weights")
    path = os.fspath(given["network_file"])
    return Arguments(path, state, None if weights is None else os.fspath(weights))
