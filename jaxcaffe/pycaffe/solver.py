"""pycaffe's solvers: training one step at a time, everything open between steps.

Follows caffe/src/caffe/solver.cpp and the solvers of caffe/python/caffe/_caffe.cpp.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcaffe import log
from jaxcaffe import run as runs
from jaxcaffe.caffe_files import snapshots
from jaxcaffe.caffe_files.caffemodel import saved_layers
from jaxcaffe.caffe_files.resume import find_learned_net
from jaxcaffe.caffe_files.solverstate import (
    SolverState,
    export_history,
    import_history,
    read_solver_state,
    write_solver_state,
)
from jaxcaffe.errors import PrototxtError, describe, nearest
from jaxcaffe.log import logger
from jaxcaffe.net.params import decay_mults, lr_mults
from jaxcaffe.net.weights import export_weights
from jaxcaffe.proto import text, upgrade
from jaxcaffe.pycaffe import debug, memory, modes
from jaxcaffe.pycaffe.net import Net
from jaxcaffe.solver import build, check, nets, schedule
from jaxcaffe.solver.prefix import find_snapshot_prefix
from jaxcaffe.spec import Params

Outputs = dict[str, np.ndarray]


class Solver:
    """A solver prototxt with its nets, as pycaffe's solvers.

    Args:
      param_file: path of a solver prototxt.

    Attributes:
      net: the training net.
      test_nets: one per test; they take the training net's weights when they are first
        tested.
      param: the SolverParameter; a base_lr set here counts from the next step on.

    Raises:
      RuntimeError: the file cannot be opened.
      CaffeError: the solver, a net or its data cannot be used; says where and why.

    Source: caffe/src/caffe/solver.cpp. Differs: none.
    """

    type = "SGD"

    def __init__(self, param_file: str) -> None:
        modes.start_log()
        if not os.path.isfile(param_file):
            raise RuntimeError(f"Could not open file {param_file}")
        param, source = text.read_solver(param_file)
        self.param = upgrade.upgrade_solver(param, source)
        self.param.type = self.type
        check.check_solver(self.param, source.path)
        if self.param.random_seed >= 0:
            modes.set_random_seed(self.param.random_seed)
        self._where = source.path
        self._prefix = find_snapshot_prefix(self.param, param_file)
        uses = nets.solver_nets(self.param, source.path)
        self.net = _open_net(uses.train, source, 0)
        self.test_nets = [
            _open_net(use, source, index) for index, use in enumerate(uses.tests)
        ]
        self._iter = 0
        self._callbacks: list[tuple[Callable[[], Any], Callable[[], Any]]] = []
        self._prepare()
        self._opt_state = self._tx.init(memory.read_weights(self.net.state)[0])
        for path in self.param.weights:
            for name in filter(None, (part.strip() for part in path.split(","))):
                self.net.copy_from(name)
                for net in self.test_nets:
                    net.copy_from(name)

    @property
    def iter(self) -> int:
        """Updates done."""
        return self._iter

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        self._prepare()
        return float(self._schedule(jnp.array(self._iter, jnp.int32)))

    def step(self, iterations: int) -> None:
        """Trains so many iterations, with the tests and snapshots that fall due.

        Source: caffe/src/caffe/solver.cpp, Step. Differs: none.
        """
        self._prepare()
        losses: deque[float | jax.Array] = deque(maxlen=self.param.average_loss)
        stop = self._iter + iterations
        begin, shown = time.perf_counter(), self._iter
        while self._iter < stop:
            self.net.clear_param_diffs()
            if _due(self._iter, self.param.test_interval) and (
                self._iter > 0 or self.param.test_initialization
            ):
                self._test_all()
            for on_start, _ in self._callbacks:
                on_start()
            shows = _due(self._iter, self.param.display)
            parts = [
                self._run_batch(shows and self.param.debug_info)
                for _ in range(self.param.iter_size)
            ]
            losses.append(sum(parts[1:], parts[0]) / self.param.iter_size)
            if shows:
                seconds = time.perf_counter() - begin
                self._display(float(sum(losses)) / len(losses), seconds, shown)
                begin, shown = time.perf_counter(), self._iter
            for _, on_gradients_ready in self._callbacks:
                on_gradients_ready()
            self.apply_update()
            if _due(self._iter, self.param.snapshot):
                self.snapshot()

    def solve(self, resume_file: str | None = None) -> None:
        """Trains to max_iter.

        Args:
          resume_file: a .solverstate to go on from.

        Source: caffe/src/caffe/solver.cpp, Solve. Differs: none.
        """
        logger.info("Solving %s", self.net.name)
        logger.info("Learning Rate Policy: %s", self.param.lr_policy)
        if resume_file:
            self.restore(resume_file)
        self.step(self.param.max_iter - self._iter)
        if self.param.snapshot_after_train and not _due(
            self._iter, self.param.snapshot
        ):
            self.snapshot()
        if _due(self._iter, self.param.display):
            loss = self.net._forward(0, len(self.net.layers) - 1)
            logger.info("Iteration %d, loss = %g", self._iter, loss)
        if _due(self._iter, self.param.test_interval):
            self._test_all()
        logger.info("Optimization Done.")

    def apply_update(self) -> None:
        """Changes the weights by the gradients in the params' diffs, and counts it.

        Afterwards the diffs hold what the weights have lost, as in Caffe.

        Source: caffe/src/caffe/solvers/sgd_solver.cpp, ApplyUpdate. Differs: none.
        """
        self._prepare()
        if _due(self._iter, self.param.display):
            logger.info("Iteration %d, lr = %g", self._iter, self.lr)
        params, _ = memory.read_weights(self.net.state)
        with modes.on_device():
            params, lost, self._opt_state = self._update(
                memory.read_diffs(self.net.state),
                self._set_count(self._opt_state),
                params,
            )
        memory.put_params(self.net.state, params)
        memory.put_diffs(self.net.state, lost)
        self._iter += 1

    def snapshot(self) -> None:
        """Writes the weights and the solver's state at snapshot_prefix.

        Raises:
          SnapshotError: a file cannot be written.
        Source: caffe/src/caffe/solver.cpp, Snapshot. Differs: none.
        """
        model_end, state_end = snapshots.extensions(self.param)
        model, state = (
            f"{self._prefix}_iter_{self._iter}{end}" for end in (model_end, state_end)
        )
        kind = "HDF5" if model_end.endswith(".h5") else "binary proto"
        core = self.net.state.built.net
        params, stats = memory.read_weights(self.net.state)
        blobs = export_weights(core, params, stats)
        diffs = None
        if self.param.snapshot_diff:
            zeros = jax.tree.map(jnp.zeros_like, stats)
            diffs = export_weights(core, memory.read_diffs(self.net.state), zeros)
        logger.info("Snapshotting to %s file %s", kind, model)
        snapshots.write_weights(model, core, saved_layers(core), blobs, diffs)
        logger.info("Snapshotting solver state to %s file %s", kind, state)
        held = SolverState(
            self._iter,
            model,
            schedule.current_step(self.param, self._iter),
            export_history(core, jax.device_get(self._opt_state.history)),
        )
        write_solver_state(state, held)

    def restore(self, state_file: str) -> None:
        """Goes on from a .solverstate or .solverstate.h5 and the weights it names.

        Raises:
          RuntimeError: the file cannot be opened.
          SnapshotError: it, or its weights, are missing, broken or of another net.
        Source: caffe/src/caffe/solvers/sgd_solver.cpp, RestoreSolverState. Differs: the
        weights are also looked for beside the state.
        """
        if not os.path.isfile(state_file):
            raise RuntimeError(f"Could not open file {state_file}")
        held = read_solver_state(state_file)
        history = import_history(
            self.net.state.built.net,
            self._opt_state.history,
            held.history,
            self.param.type,
            state_file,
        )
        if held.learned_net:
            self.net.copy_from(find_learned_net(held, state_file))
        self._iter = held.iter
        self._opt_state = self._opt_state._replace(
            history=jax.tree.map(jnp.asarray, history)
        )
        logger.info("SGDSolver: restoring history")

    def share_weights(self, net: Net) -> None:
        """Gives a net the memory of this solver's weights."""
        net.share_with(self.net)

    def add_callback(
        self, on_start: Callable[[], Any], on_gradients_ready: Callable[[], Any]
    ) -> None:
        """Has functions called before each iteration and before each update."""
        self._callbacks.append((on_start, on_gradients_ready))

    def _prepare(self) -> None:
        """Makes the update that `param` describes, which may have been changed."""
        described = self.param.SerializeToString(deterministic=True)
        if described == getattr(self, "_described", None):
            return
        self._described = described
        core = self.net.state.built.net
        self._schedule = schedule.make_schedule(self.param, self._where)
        self._tx = build.build_tx(
            self.param, lr_mults(core), decay_mults(core), self._where
        )
        tx = self._tx

        def update(
            grads: Params, state: Any, params: Params
        ) -> tuple[Params, Params, Any]:
            updates, state = tx.update(grads, state, params)
            lost = jax.tree.map(jnp.negative, updates)
            return optax.apply_updates(params, updates), lost, state

        self._update = jax.jit(update)

    def _set_count(self, opt_state: Any) -> Any:
        return opt_state._replace(count=jnp.array(self._iter, jnp.int32))

    def _run_batch(self, with_info: bool) -> float | jax.Array:
        if not with_info:
            return self.net.run_forward_backward()
        with debug.logged(self.net.state, with_backward=True):
            return self.net.run_forward_backward()

    def _display(self, loss: float, seconds: float, shown: int) -> None:
        rate = (self._iter - shown) / seconds if seconds > 0 else 0.0
        line = log.iteration_line(self._iter, rate, seconds, self.param.display, loss)
        logger.info("%s", line)
        outputs = {name: self.net.blobs[name].data for name in self.net.outputs}
        weights = self.net.blob_loss_weights
        for line in log.output_lines("Train", outputs, weights):
            logger.info("%s", line)

    def _test_all(self) -> None:
        for index, net in enumerate(self.test_nets):
            logger.info("Iteration %d, Testing net (#%d)", self._iter, index)
            net.share_with(self.net)
            sums: dict[str, Any] = {}
            total: Any = 0.0
            count = self.param.test_iter[index]
            for _ in range(count):
                total = total + self._test_batch(net)
                for name in net.outputs:
                    value = net.blobs[name].data_side.to_device()
                    sums[name] = sums[name] + value if name in sums else value
            means = {name: np.asarray(value) / count for name, value in sums.items()}
            if self.param.test_compute_loss:
                logger.info("Test loss: %g", float(total) / count)
            for line in log.output_lines("Test", means, net.blob_loss_weights):
                logger.info("%s", line)

    def _test_batch(self, net: Net) -> float | jax.Array:
        if not self.param.debug_info:
            return net.run_forward(0, len(net.layers) - 1)
        with debug.logged(net.state, with_backward=False):
            return net.run_forward(0, len(net.layers) - 1)


class SGDSolver(Solver):
    """Stochastic gradient descent, whatever type the file names."""


class NesterovSolver(SGDSolver):
    """Nesterov's accelerated gradient."""

    type = "Nesterov"


class AdaGradSolver(SGDSolver):
    """AdaGrad."""

    type = "AdaGrad"


class RMSPropSolver(SGDSolver):
    """RMSProp."""

    type = "RMSProp"


class AdaDeltaSolver(SGDSolver):
    """AdaDelta."""

    type = "AdaDelta"


class AdamSolver(SGDSolver):
    """Adam."""

    type = "Adam"


_CLASSES = (
    SGDSolver,
    NesterovSolver,
    AdaGradSolver,
    RMSPropSolver,
    AdaDeltaSolver,
    AdamSolver,
)


def get_solver(param_file: str) -> SGDSolver:
    """Returns the solver of the type that a solver prototxt names.

    Raises:
      RuntimeError: the file cannot be opened.
      CaffeError: as Solver.
    """
    if not os.path.isfile(param_file):
        raise RuntimeError(f"Could not open file {param_file}")
    param, source = text.read_solver(param_file)
    param = upgrade.upgrade_solver(param, source)
    found = {kind.type: kind for kind in _CLASSES}
    if param.type not in found:
        problem = f'solver type "{param.type}" is unknown'
        raise PrototxtError(describe(source.path, problem, nearest(param.type, found)))
    return found[param.type](param_file)


def _open_net(use: nets.NetUse, source: text.Source, index: int) -> Net:
    param, net_source = runs.read_use(use, source, index)
    return Net.from_param(param, nets.merge_state(use, param), net_source)


def _due(iteration: int, interval: int) -> bool:
    return interval > 0 and iteration % interval == 0
