"""The lines of `debug_info: true` about a pass of a pycaffe net.

Follows ForwardDebugInfo and BackwardDebugInfo of caffe/src/caffe/net.cpp.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from jaxcaffe.debug_info import backward_lines, forward_lines, norm_line
from jaxcaffe.log import logger
from jaxcaffe.pycaffe.state import State


@contextlib.contextmanager
def logged(state: State, with_backward: bool) -> Iterator[None]:
    """Logs the mean absolute value of every blob of one pass that is run inside.

    Layers then run one by one, which takes longer.

    Args:
      state: of the net that is run.
      with_backward: whether the pass is run backward too.

    Source: caffe/src/caffe/net.cpp, ForwardDebugInfo, BackwardDebugInfo and Backward.
    Differs: the lines come when the pass is over.
    """
    values: list[float] = []

    def after_forward(index: int) -> None:
        node = state.graph.nodes[index]
        values.extend(_mean_abs(state.blobs[top].data) for top in node.tops)
        values.extend(_mean_abs(blob.data) for blob in state.params.get(node.key, ()))

    def after_backward(index: int) -> None:
        node, plan = state.graph.nodes[index], state.built.plan
        if not plan.layers[index]:
            return
        for bottom, needed in zip(node.bottoms, plan.bottoms[index], strict=True):
            if needed:
                values.append(_mean_abs(state.blobs[bottom].diff))
        blobs = state.params.get(node.key, ())
        for blob, needed in zip(blobs, plan.params[index], strict=True):
            if needed:
                values.append(_mean_abs(blob.diff))

    own = {"after_forward": after_forward, "after_backward": after_backward}
    for moment, callback in own.items():
        state.callbacks[moment].append(callback)
    try:
        yield
    finally:
        for moment, callback in own.items():
            state.callbacks[moment].remove(callback)
    net = state.built.net
    lines = [*forward_lines(net)]
    if with_backward:
        lines += backward_lines(net, state.built.plan)
    for line, value in zip(lines, values, strict=True):
        logger.info("%s%g", line, value)
    if with_backward:
        data = [blob.data for blob in state.owners.values()]
        diff = [blob.diff for blob in state.owners.values()]
        # Caffe too gives this line the rank of an error.
        logger.error("%s", norm_line(_l1(data), _l1(diff), _l2(data), _l2(diff)))


def _mean_abs(array: np.ndarray) -> float:
    return float(np.mean(np.abs(array)))


def _l1(arrays: list[np.ndarray]) -> float:
    return float(sum(np.sum(np.abs(array)) for array in arrays))


def _l2(arrays: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum(array * array) for array in arrays)))
