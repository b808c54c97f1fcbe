"""Numbers of a solver file that no training run could use are refused up front.

Follows Solver::Init of caffe/src/caffe/solver.cpp.
"""

from __future__ import annotations

import math

from jaxcaffe.errors import PrototxtError, describe
from jaxcaffe.proto import caffe_pb2

_AT_LEAST = {
    "iter_size": 1,
    "average_loss": 1,
    "max_iter": 0,
    "display": 0,
    "snapshot": 0,
    "test_interval": 0,
}

_FINITE = (
    "base_lr",
    "momentum",
    "momentum2",
    "weight_decay",
    "clip_gradients",
    "delta",
    "rms_decay",
)

_WITHOUT_MOMENTUM = ("AdaGrad", "RMSProp")


def check_solver(solver: caffe_pb2.SolverParameter, where: str = "") -> None:
    """Refuses numbers that cannot be meant. Nets, policy and type check themselves.

    Args:
      solver: a SolverParameter, upgraded.
      where: path of the solver file, for messages.

    Raises:
      PrototxtError: iter_size or average_loss below 1; max_iter, display, snapshot,
        test_interval or a test_iter negative; base_lr missing; momentum outside
        [0, 1], or set for AdaGrad or RMSProp; rms_decay outside [0, 1) for RMSProp;
        momentum or momentum2 outside [0, 1) for Adam; any of the numbers of an update
        not finite.
    Source: caffe/src/caffe/solver.cpp, Init; caffe/include/caffe/sgd_solvers.hpp,
      constructor_sanity_check. Differs: Caffe itself only looks at average_loss, and at
      momentum and rms_decay of AdaGrad and RMSProp; it divides by zero, trains with a
      rate of 0 or loops oddly on the others.
    """
    for field, least in _AT_LEAST.items():
        _require(getattr(solver, field) >= least, solver, field, f">= {least}", where)
    for test_iter in solver.test_iter:
        if test_iter < 0:
            problem = f"a test_iter is {test_iter}"
            raise PrototxtError(describe(where, problem, "test_iter >= 0"))
    if not solver.HasField("base_lr"):
        problem = "base_lr is missing"
        raise PrototxtError(describe(where, problem, "a number, as in base_lr: 0.01"))
    for field in _FINITE:
        is_finite = math.isfinite(getattr(solver, field))
        _require(is_finite, solver, field, "a finite number", where)
    _require(0 <= solver.momentum <= 1, solver, "momentum", "from 0 to 1", where)
    if solver.type in _WITHOUT_MOMENTUM:
        wanted = f"0, or left out: {solver.type} has none"
        _require(solver.momentum == 0, solver, "momentum", wanted, where)
    if solver.type == "RMSProp":
        _require(
            0 <= solver.rms_decay < 1, solver, "rms_decay", "from 0 to below 1", where
        )
    if solver.type == "Adam":
        wanted = "from 0 to below 1 for Adam"
        _require(solver.momentum < 1, solver, "momentum", wanted, where)
        _require(0 <= solver.momentum2 < 1, solver, "momentum2", wanted, where)


def _require(
    holds: bool,
    solver: caffe_pb2.SolverParameter,
    field: str,
    accepted: str,
    where: str,
) -> None:
    if not holds:
        problem = f"{field} is {getattr(solver, field):g}"
        raise PrototxtError(describe(where, problem, f"{field} {accepted}"))
