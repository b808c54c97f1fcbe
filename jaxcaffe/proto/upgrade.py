"""Brings nets and solvers of any age to today's form, as Caffe does on reading.

Follows Caffe's src/caffe/util/upgrade_proto.cpp (UpgradeNetAsNeeded,
UpgradeSolverAsNeeded).
"""

from __future__ import annotations

from typing import NamedTuple

from jaxcaffe.errors import PrototxtError, describe, plural
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import Source
from jaxcaffe.proto.upgrade_v0 import needs_v0_upgrade, upgrade_v0
from jaxcaffe.proto.upgrade_v1 import (
    needs_transform_upgrade,
    needs_v1_upgrade,
    upgrade_transform,
    upgrade_v1,
)

_SOLVER_TYPES = {
    caffe_pb2.SolverParameter.SGD: "SGD",
    caffe_pb2.SolverParameter.NESTEROV: "Nesterov",
    caffe_pb2.SolverParameter.ADAGRAD: "AdaGrad",
    caffe_pb2.SolverParameter.RMSPROP: "RMSProp",
    caffe_pb2.SolverParameter.ADADELTA: "AdaDelta",
    caffe_pb2.SolverParameter.ADAM: "Adam",
}
_INPUT_DIMS = 4  # input_dim gives 4 sizes for each input
_OLD_BATCH_NORM_PARAMS = 3


class NetUpgrade(NamedTuple):
    """An upgraded net and what was done to it."""

    net: caffe_pb2.NetParameter
    steps: tuple[str, ...]  # "V0LayerParameter", "input fields", ...: Caffe's words
    problems: tuple[str, ...]  # fields left out, in Caffe's words; Caffe goes on


def needs_upgrade(net: caffe_pb2.NetParameter) -> bool:
    """Tells whether `upgrade_net` would change a net."""
    return (
        needs_v0_upgrade(net)
        or needs_v1_upgrade(net)
        or needs_transform_upgrade(net)
        or needs_input_upgrade(net)
        or needs_batch_norm_upgrade(net)
    )


def upgrade_net(
    net: caffe_pb2.NetParameter, source: Source | None = None
) -> caffe_pb2.NetParameter:
    """Returns the net in today's form. The argument stays as it is.

    Args:
      net: of any age; a current net is returned as a copy.
      source: where it was written, for errors.

    Raises:
      PrototxtError: what Caffe refuses: see `upgrade_v0`, `upgrade_v1`,
        `upgrade_inputs`.

    Source: upgrade_proto.cpp, UpgradeNetAsNeeded. Differs: none.
    """
    return upgrade_net_with_report(net, source).net


def upgrade_net_with_report(
    net: caffe_pb2.NetParameter, source: Source | None = None
) -> NetUpgrade:
    """As `upgrade_net`, and tells the steps taken and the fields left out."""
    steps: list[str] = []
    problems: list[str] = []
    upgraded = caffe_pb2.NetParameter()
    upgraded.CopyFrom(net)
    if needs_v0_upgrade(upgraded):
        upgraded, left_out = upgrade_v0(upgraded, source)
        problems += left_out
        steps.append("V0LayerParameter")
    if needs_transform_upgrade(upgraded):
        upgraded = upgrade_transform(upgraded)
        steps.append("transformation parameters")
    if needs_v1_upgrade(upgraded):
        upgraded, left_out = upgrade_v1(upgraded, source)
        problems += left_out
        steps.append("V1LayerParameter")
    if needs_input_upgrade(upgraded):
        upgraded = upgrade_inputs(upgraded, source)
        steps.append("input fields")
    if needs_batch_norm_upgrade(upgraded):
        upgraded = upgrade_batch_norm(upgraded)
        steps.append("batch norm layers")
    return NetUpgrade(upgraded, tuple(steps), tuple(problems))


def needs_input_upgrade(net: caffe_pb2.NetParameter) -> bool:
    """Tells whether a net declares inputs by `input`."""
    return len(net.input) > 0


def upgrade_inputs(
    net: caffe_pb2.NetParameter, source: Source | None = None
) -> caffe_pb2.NetParameter:
    """Returns the net with its inputs as tops of a first layer "input" (Input).

    Inputs without any shape, as old weight files have them, are only dropped. Where
    both input_shape and input_dim are given, input_shape counts.

    Raises:
      PrototxtError: fewer shapes than inputs.

    Source: upgrade_proto.cpp, UpgradeNetInput. Differs: Caffe reads past the end of
      a list that is too short.
    """
    upgraded = caffe_pb2.NetParameter()
    if net.input_shape or net.input_dim:
        layer = upgraded.layer.add(name="input", type="Input", top=net.input)
        layer.input_param.shape.extend(_input_shapes(net, source))
    body = caffe_pb2.NetParameter()
    body.CopyFrom(net)
    for field in ("input", "input_shape", "input_dim"):
        body.ClearField(field)
    upgraded.MergeFrom(body)
    return upgraded


def needs_batch_norm_upgrade(net: caffe_pb2.NetParameter) -> bool:
    """Tells whether a BatchNorm layer lists its three blobs as `param`."""
    return any(_has_old_params(layer) for layer in net.layer)


def upgrade_batch_norm(net: caffe_pb2.NetParameter) -> caffe_pb2.NetParameter:
    """Returns the net with lr_mult and decay_mult of those params set to 0.

    Source: upgrade_proto.cpp, UpgradeNetBatchNorm. Differs: none.
    """
    upgraded = caffe_pb2.NetParameter()
    upgraded.CopyFrom(net)
    for layer in filter(_has_old_params, upgraded.layer):
        for param in layer.param:
            param.lr_mult = 0
            param.decay_mult = 0
    return upgraded


def needs_solver_upgrade(solver: caffe_pb2.SolverParameter) -> bool:
    """Tells whether a solver gives its type as the enum `solver_type`."""
    return solver.HasField("solver_type")


def upgrade_solver(
    solver: caffe_pb2.SolverParameter, source: Source | None = None
) -> caffe_pb2.SolverParameter:
    """Returns the solver with `type` in place of `solver_type`; nets in it stay.

    Args:
      solver: stays as it is.
      source: where it was written, for errors.

    Raises:
      PrototxtError: both `type` and `solver_type` are set.

    Source: upgrade_proto.cpp, UpgradeSolverType. Differs: none.
    """
    upgraded = caffe_pb2.SolverParameter()
    upgraded.CopyFrom(solver)
    if not needs_solver_upgrade(solver):
        return upgraded
    type_ = _SOLVER_TYPES[solver.solver_type]
    if solver.HasField("type"):
        problem = f'type "{solver.type}" and solver_type {type_.upper()} are both set'
        raise PrototxtError(describe(_path(source), problem, "type alone"))
    upgraded.ClearField("solver_type")
    upgraded.type = type_
    return upgraded


def _has_old_params(layer: caffe_pb2.LayerParameter) -> bool:
    return layer.type == "BatchNorm" and len(layer.param) == _OLD_BATCH_NORM_PARAMS


def _input_shapes(
    net: caffe_pb2.NetParameter, source: Source | None
) -> list[caffe_pb2.BlobShape]:
    count = len(net.input)
    if net.input_shape:
        if len(net.input_shape) < count:
            problem = f"{plural(count, 'input')} but {len(net.input_shape)} input_shape"
            raise PrototxtError(
                describe(_path(source), problem, f"{count} input_shape")
            )
        return list(net.input_shape[:count])
    if len(net.input_dim) < _INPUT_DIMS * count:
        problem = f"{plural(count, 'input')} but {len(net.input_dim)} input_dim"
        accepted = f"{_INPUT_DIMS * count} input_dim, 4 for each input"
        raise PrototxtError(describe(_path(source), problem, accepted))
    return [
        caffe_pb2.BlobShape(dim=net.input_dim[i : i + _INPUT_DIMS])
        for i in range(0, _INPUT_DIMS * count, _INPUT_DIMS)
    ]


def _path(source: Source | None) -> str:
    return source.path if source else ""
