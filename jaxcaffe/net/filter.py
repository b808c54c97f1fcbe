"""Picks the layers that a phase, a level and a set of stages call for.

Follows caffe/src/caffe/net.cpp, FilterNet and StateMeetsRule.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from jaxcaffe.errors import PrototxtError, describe_layer
from jaxcaffe.proto import caffe_pb2

if TYPE_CHECKING:
    from jaxcaffe.proto.text import Source


def merge_state(
    net: caffe_pb2.NetParameter, state: caffe_pb2.NetState
) -> caffe_pb2.NetState:
    """Returns the state that a net is filtered by: the file's under the caller's.

    Fields that the caller set replace those of the net's own `state { }`; stages add
    up. Merging twice changes nothing.

    Source: caffe/src/caffe/net.cpp, Net(param_file, phase, level, stages). Differs:
    none.
    """
    merged = caffe_pb2.NetState()
    merged.CopyFrom(net.state)
    merged.MergeFrom(state)
    stages = tuple(dict.fromkeys(merged.stage))
    del merged.stage[:]
    merged.stage.extend(stages)
    return merged


def meets_rule(state: caffe_pb2.NetState, rule: caffe_pb2.NetStateRule) -> bool:
    """Returns whether the state has the rule's phase, level and stages.

    Every condition that the rule states must hold: the phase, min_level and
    max_level (both included), all of `stage` and none of `not_stage`.

    Source: caffe/src/caffe/net.cpp, StateMeetsRule. Differs: none.
    """
    return not _unmet(state, rule)


def includes_layer(state: caffe_pb2.NetState, layer: caffe_pb2.LayerParameter) -> bool:
    """Returns whether any include rule holds or, without any, no exclude rule does."""
    if layer.include:
        return any(meets_rule(state, rule) for rule in layer.include)
    return not any(meets_rule(state, rule) for rule in layer.exclude)


def filter_lines(
    net: caffe_pb2.NetParameter, state: caffe_pb2.NetState
) -> Iterator[str]:
    """Yields a line on each rule that a net's layers have and the state does not meet.

    Rules behind the one that decides about a layer are not looked at.

    Source: caffe/src/caffe/net.cpp, FilterNet and StateMeetsRule. Differs: a level
    below min_level is called so.
    """
    merged = merge_state(net, state)
    for layer in net.layer:
        for rule in layer.include or layer.exclude:
            unmet = _unmet(merged, rule)
            if not unmet:
                break
            yield f"The NetState {unmet} specified by a rule in layer {layer.name}"


def filter_net(
    net: caffe_pb2.NetParameter,
    state: caffe_pb2.NetState,
    source: Source | None = None,
) -> tuple[caffe_pb2.NetParameter, tuple[int, ...]]:
    """Keeps the layers whose rules the state meets.

    Args:
      net: an upgraded net; not changed.
      state: the caller's phase, level and stages, put over the net's own.
      source: where the layers stand, for errors.

    Returns:
      A copy with the kept layers and the merged state, and their indices in `net`.

    Raises:
      PrototxtError: a layer has both include and exclude rules.

    Source: caffe/src/caffe/net.cpp, FilterNet. Differs: none.
    """
    merged = merge_state(net, state)
    for i, layer in enumerate(net.layer):
        if layer.include and layer.exclude:
            raise PrototxtError(
                describe_layer(
                    locate_layers(net, (i,), source)[0],
                    layer.name,
                    layer.type,
                    f"{len(layer.include)} include and {len(layer.exclude)} exclude "
                    "rules are set",
                    "either include or exclude rules",
                )
            )
    kept = tuple(
        i for i, layer in enumerate(net.layer) if includes_layer(merged, layer)
    )
    filtered = caffe_pb2.NetParameter()
    filtered.CopyFrom(net)
    filtered.state.CopyFrom(merged)
    del filtered.layer[:]
    filtered.layer.extend(net.layer[i] for i in kept)
    return filtered, kept


def locate_layers(
    net: caffe_pb2.NetParameter, indices: Iterable[int], source: Source | None
) -> tuple[str, ...]:
    """Returns "file:line" of each layer given by its index in the unfiltered net.

    Layers of one name (one per phase, say) are told apart by counting.
    """
    if source is None:
        return tuple("" for _ in indices)
    seen: dict[str, int] = {}
    places = []
    for layer in net.layer:
        occurrence = seen.get(layer.name, 0)
        seen[layer.name] = occurrence + 1
        places.append(source.locate(layer.name, occurrence))
    return tuple(places[i] for i in indices)


def _unmet(state: caffe_pb2.NetState, rule: caffe_pb2.NetStateRule) -> str:
    """Returns the first condition of a rule that does not hold, or ""."""
    if rule.HasField("phase") and rule.phase != state.phase:
        return f"phase ({state.phase}) differed from the phase ({rule.phase})"
    if rule.HasField("min_level") and state.level < rule.min_level:
        return f"level ({state.level}) is below the min_level ({rule.min_level})"
    if rule.HasField("max_level") and state.level > rule.max_level:
        return f"level ({state.level}) is above the max_level ({rule.max_level})"
    for stage in rule.stage:
        if stage not in state.stage:
            return f"did not contain stage '{stage}'"
    for stage in rule.not_stage:
        if stage in state.stage:
            return f"contained a not_stage '{stage}'"
    return ""
