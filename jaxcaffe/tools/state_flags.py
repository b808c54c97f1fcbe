"""The flags --level and --stage: which layers of a net a command takes.

Follows get_stages_from_flags of caffe/tools/caffe.cpp.
"""

from __future__ import annotations

from argparse import Namespace

from jaxcaffe.proto import caffe_pb2
from jaxcaffe.tools import cli


def add_state_flags(parser: cli.Parser) -> None:
    """Declares --level and --stage."""
    parser.flag("level", None, "level of the net, for min_level and max_level", int)
    parser.flag("stage", "", "stages of the net, comma-separated, for stage, not_stage")


def read_state(flags: Namespace, phase: caffe_pb2.Phase) -> caffe_pb2.NetState:
    """Returns what the flags ask for; the level is set only if the flag was given.

    Args:
      flags: parsed by a parser with `add_state_flags`.
      phase: caffe_pb2.TRAIN or caffe_pb2.TEST, of the net that they are for.

    Source: caffe/tools/caffe.cpp. Differs: without --level Caffe sets level 0 all the
    same, over what the solver or the net says.
    """
    stages = [stage for stage in flags.stage.split(",") if stage]
    state = caffe_pb2.NetState(phase=phase, stage=stages)
    if flags.level is not None:
        state.level = flags.level
    return state
