"""What the loop shows of iterations and tests: log lines, curves, the view.

Follows the messages of caffe/src/caffe/solver.cpp and solvers/sgd_solver.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np

from jaxcaffe import log
from jaxcaffe.log import logger
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.run_view import RunView
from jaxcaffe.solver.schedule import multistep_changes
from jaxcaffe.spec import Net
from jaxcaffe.step import StepReport

Outputs = Mapping[str, np.ndarray]

_LONGEST_WAIT = 1000  # lines of updates that are held back at most


class UpdateLines:
    """Lines about single updates, in Caffe's order but not always at once.

    A line on clipping needs a number that the device is still computing. Waiting for
    it would cost every iteration a pause, so it is held back, and what follows it too,
    until `flush`, where the host waits anyway.
    """

    def __init__(self, solver: caffe_pb2.SolverParameter) -> None:
        self._changes = multistep_changes(solver)
        self._limit = solver.clip_gradients
        self._waiting: list[str | tuple[jax.Array, int]] = []

    def note_rate(self, iteration: int) -> None:
        """Says so if the rate of a multistep policy changes at this iteration."""
        step = self._changes.get(iteration)
        if step is not None:
            self._add(f"MultiStep Status: Iteration {iteration}, step = {step}")

    def note_norm(self, norms: jax.Array | None, row: int = 0) -> None:
        """Says so later if gradients of this norm were clipped; None says nothing.

        Args:
          norms: () float32, or (K,) of which `row` counts.
          row: of the update.
        """
        if norms is not None:
            self._add((norms, row))

    def flush(self) -> None:
        """Logs what was held back."""
        for entry in jax.device_get(self._waiting):
            if isinstance(entry, str):
                logger.info("%s", entry)
                continue
            norms, row = entry
            norm = np.ravel(norms)[row]
            if norm > self._limit:
                logger.info(
                    "Gradient clipping: scaling down gradients (L2 norm %g > %g) by "
                    "scale factor %g",
                    norm,
                    self._limit,
                    self._limit / norm,
                )
        self._waiting.clear()

    def _add(self, entry: str | tuple[jax.Array, int]) -> None:
        self._waiting.append(entry)
        alone = len(self._waiting) == 1 and isinstance(entry, str)
        if alone or len(self._waiting) >= _LONGEST_WAIT:
            self.flush()


def show_iteration(
    shown: StepReport,
    iteration: int,
    seconds: float,
    iterations: int,
    *,
    net: Net,
    solver: caffe_pb2.SolverParameter,
    lines: UpdateLines,
    scalars: log.Scalars,
    view: RunView,
) -> None:
    """Shows one iteration.

    Args:
      shown: the report of its step, on the host.
      iteration: its number, counted from 0.
      seconds: since the last one shown, s.
      iterations: since the last one shown.
      net: the TRAIN net.
      solver: gives `display`.
      lines: what goes before and between; holds nothing back afterwards.
      scalars: gets the numbers.
      view: likewise.

    Source: caffe/src/caffe/solver.cpp, Step; sgd_solver.cpp, ApplyUpdate. Differs:
    none.
    """
    speed = iterations / seconds if seconds > 0 else 0.0
    loss, rate = float(shown.loss), float(shown.rate)
    line = log.iteration_line(iteration, speed, seconds, solver.display, loss)
    logger.info("%s", line)
    outputs = {name: np.asarray(value) for name, value in shown.outputs.items()}
    for line in log.output_lines("Train", outputs, loss_weights(net)):
        logger.info("%s", line)
    lines.note_rate(iteration)
    logger.info("Iteration %d, lr = %g", iteration, rate)
    flat = {f"train/{name}": value.tolist() for name, value in outputs.items()}
    scalars.write(iteration, loss=loss, lr=rate, **flat)
    view.show(loss, speed)


def show_test(
    means: Outputs,
    index: int,
    iteration: int,
    *,
    net: Net,
    with_loss: bool,
    scalars: log.Scalars,
    view: RunView,
) -> Outputs:
    """Shows the result of one test.

    Args:
      means: over the batches; for each output, and under "" for the total loss.
      index: number of the test net.
      iteration: updates done.
      net: the TEST net.
      with_loss: whether test_compute_loss asks for the total loss.
      scalars: gets the numbers.
      view: gets the accuracy, if there is one.

    Returns:
      The means of the outputs.

    Source: caffe/src/caffe/solver.cpp, Test. Differs: none.
    """
    outputs = {name: value for name, value in means.items() if name}
    if with_loss:
        logger.info("Test loss: %g", means[""])
    for line in log.output_lines("Test", outputs, loss_weights(net)):
        logger.info("%s", line)
    for line in log.score_lines(outputs):
        logger.info("%s", line)
    flat = {f"test{index}/{name}": v.tolist() for name, v in outputs.items()}
    scalars.write(iteration, **flat)
    accuracy = _accuracy(net, outputs)
    if accuracy is not None and (index == 0 or view.accuracy is None):
        view.accuracy = accuracy
    return outputs


def loss_weights(net: Net) -> dict[str, float]:
    """Returns the loss weight of each blob that counts towards the loss."""
    return {
        top: weight
        for node in net.graph.nodes
        for top, weight in zip(node.tops, node.loss_weights, strict=True)
        if weight
    }


def _accuracy(net: Net, outputs: Outputs) -> float | None:
    for node in net.graph.nodes:
        if node.layer.type == "Accuracy" and node.tops[0] in outputs:
            return float(outputs[node.tops[0]])
    return None
