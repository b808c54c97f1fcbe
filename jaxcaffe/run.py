"""From a config to everything that training, testing and profiling call.

The only place that knows how files, nets, records, devices and compiled steps fit
together.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import ml_collections
import optax

from jaxcaffe import checkpoint, fed_net, grouping, sharding, step
from jaxcaffe.caffe_files.weights import copy_weights
from jaxcaffe.devices import hide_others, log_devices, parse_ids, pick_devices
from jaxcaffe.errors import SnapshotError, describe
from jaxcaffe.fed_net import FedNet
from jaxcaffe.log import logger
from jaxcaffe.net.params import decay_mults, lr_mults, trainable
from jaxcaffe.prefetch import DeviceFeed
from jaxcaffe.proto import caffe_pb2, text, upgrade
from jaxcaffe.proto.files import refuse_missing
from jaxcaffe.proto.text import format_message
from jaxcaffe.solver import build, check, nets, optimizer, schedule
from jaxcaffe.solver.prefix import find_snapshot_prefix
from jaxcaffe.solver.transform import sum_norm
from jaxcaffe.spec import Blobs, Net, ParamInfo, Params, Stats
from jaxcaffe.state import TrainState, init_state, pick_hidden
from jaxcaffe.user_layers import load_layers

_SHOWN = 6  # layers named in one message


class Run(NamedTuple):
    """A run before its first step. Nothing is compiled, no weight exists yet."""

    config: ml_collections.ConfigDict
    solver: caffe_pb2.SolverParameter
    max_iter: int
    seed: int
    mesh: jax.sharding.Mesh
    weights: tuple[str, ...]  # files that the first weights come from
    train: FedNet
    tests: tuple[FedNet, ...]
    tx: optax.GradientTransformation
    schedule: optax.Schedule


DEVICE_IDS = "--gpu (config.device_ids)"
"""Where devices are named, for messages."""


def prepare_devices(config: ml_collections.ConfigDict) -> None:
    """Starts the devices that a config names, at its precision.

    Args:
      config: from config.load_config; the first call counts where JAX has not looked
        for devices before.

    Raises:
      ConfigError: there are no such devices.
    """
    set_precision(config.precision)
    hide_others(parse_ids(config.device_ids, DEVICE_IDS))
    pick_devices(config.device_ids, DEVICE_IDS)


def set_precision(precision: str) -> None:
    """Sets how products are computed; call before anything runs on a device.

    Args:
      precision: "parity" computes products in full float32 and, on a GPU, sums in a
        fixed order; "fast" lets the device use what it is fastest at.
    """
    if precision == "parity":
        jax.config.update("jax_default_matmul_precision", "highest")
        flags = os.environ.get("XLA_FLAGS", "")
        if checkpoint.DETERMINISTIC not in flags:
            # Read when the first device is used, hence by no flag set later.
            os.environ["XLA_FLAGS"] = f"{flags} {checkpoint.DETERMINISTIC}".strip()
    else:
        jax.config.update("jax_default_matmul_precision", "default")


def open_run(
    config: ml_collections.ConfigDict,
    seed: int | None = None,
    asked: caffe_pb2.NetState | None = None,
    is_new: bool = True,
) -> Run:
    """Reads the solver, its nets and the first records, and checks all of them.

    Args:
      config: from config.load_config.
      seed: of the run that goes on; None for a new run.
      is_new: whether the run starts with the weights that config or solver name; of
        one that goes on, only layers that a test net alone has do.
      asked: level and stages from the command line, put over train_state or, if its
        phase is TEST, over each test_state.

    Raises:
      CaffeError: whatever the files or the config say that cannot be.
    """
    set_precision(config.precision)
    load_layers(config.layers)
    solver, source = text.read_solver(config.solver)
    solver = upgrade.upgrade_solver(solver, source)
    check.check_solver(solver, source.path)
    _set_prefix(solver, config.solver)
    if config.max_iter:
        solver.max_iter = config.max_iter  # the rates of poly depend on it
    if seed is None:
        seed = _choose_seed(config, solver)
    devices = pick_devices(config.device_ids, DEVICE_IDS)
    mesh = sharding.make_mesh(config.devices, devices)
    log_devices(list(mesh.devices))
    logger.info(
        "Initializing solver from parameters: \n%s", format_message(solver).rstrip()
    )
    weights = _weight_files(config, solver)
    announced = weights if is_new else ()
    uses = nets.ask(nets.solver_nets(solver, source.path), asked)
    train = _open_use(config, uses.train, source, seed, mesh, announced)
    tests = tuple(
        _open_use(config, use, source, seed, mesh, announced, index, train.net.params)
        for index, use in enumerate(uses.tests)
    )
    logger.info("Solver scaffolding done.")
    rates = schedule.make_schedule(solver, source.path)
    tx = build.build_tx(
        solver,
        lr_mults(train.net),
        decay_mults(train.net),
        source.path,
        _open_optimizer(config, train.net, rates),
    )
    return Run(
        config=config,
        solver=solver,
        max_iter=solver.max_iter,
        seed=seed,
        mesh=mesh,
        weights=weights,
        train=train,
        tests=tests,
        tx=tx,
        schedule=rates,
    )


def rule_name(run: Run) -> str:
    """Returns what makes updates: the solver's type, or config.optimizer by name."""
    if run.config.optimizer:
        return f"config.optimizer {optimizer.optimizer_name(run.config.optimizer)}"
    return run.solver.type


def find_workdir(config: ml_collections.ConfigDict) -> str:
    """Returns the folder that the run's snapshots and curves go to."""
    if config.workdir:
        return config.workdir
    solver, _ = text.read_solver(config.solver)
    return f"{find_snapshot_prefix(solver, config.solver)}_run"


def make_state(run: Run) -> TrainState:
    """Returns freshly filled weights and zero history, on all devices of the mesh."""
    key = jax.random.key(run.seed)
    fill = jax.jit(_init(run), out_shardings=sharding.replicated(run.mesh))
    return fill(key)


def state_struct(run: Run) -> TrainState:
    """Returns the shapes and dtypes of the run's state, with no memory behind them."""
    return jax.eval_shape(_init(run), jax.random.key(0))


def compile_train_step(run: Run) -> grouping.Step:
    """Returns the jitted training step; the state given to it is used up."""
    whole = sharding.replicated(run.mesh)
    return jax.jit(
        _make_train_step(run), donate_argnums=0, out_shardings=(whole, whole)
    )


def compile_group_step(run: Run) -> grouping.GroupStep:
    """Returns the jitted program of several training steps; see make_group_step.

    The state given to it is used up.
    """
    whole = sharding.replicated(run.mesh)
    group_step = grouping.make_group_step(_make_train_step(run))
    return jax.jit(group_step, donate_argnums=0, out_shardings=(whole, whole))


def _make_train_step(run: Run) -> grouping.Step:
    fed = run.train
    return step.make_train_step(
        net=fed.net,
        augment=fed.augment,
        tx=run.tx,
        schedule=run.schedule,
        trainable=trainable(fed.net),
        iter_size=run.solver.iter_size,
        keep_updates=run.config.snapshot.caffe and run.solver.snapshot_diff,
        sum_norm=sum_norm if run.solver.clip_gradients >= 0 else None,
    )


def compile_eval_step(run: Run, fed: FedNet) -> Callable[..., tuple[Blobs, Stats]]:
    """Returns the jitted test step of one test net; the sums given are used up."""
    whole = sharding.replicated(run.mesh)
    eval_step = step.make_eval_step(net=fed.net, augment=fed.augment)
    return jax.jit(eval_step, donate_argnums=3, out_shardings=whole)


def make_zero_sums(run: Run, fed: FedNet) -> Callable[[], Blobs]:
    """Returns a function that gives the sums with which a test starts."""
    zero = functools.partial(step.zero_sums, fed.net)
    return jax.jit(zero, out_shardings=sharding.replicated(run.mesh))


def compile_loss_step(
    run: Run,
) -> Callable[[TrainState, Blobs], tuple[jax.Array, Stats]]:
    """Returns the jitted forward pass of the train net; see step.make_loss_step.

    With iter_size above 1 it looks at the first batch of the iteration only, as Caffe
    does after the last update.
    """
    whole = sharding.replicated(run.mesh)
    loss_step = step.make_loss_step(net=run.train.net, augment=run.train.augment)
    if run.solver.iter_size == 1:
        return jax.jit(loss_step, out_shardings=whole)

    def first_part(state: TrainState, batch: Blobs) -> tuple[jax.Array, Stats]:
        return loss_step(state, {name: array[0] for name, array in batch.items()})

    return jax.jit(first_part, out_shardings=whole)


def open_device_feed(
    run: Run,
    fed: FedNet,
    positions: Mapping[str, int] | None = None,
    at_once: int = 1,
) -> DeviceFeed:
    """Starts reading a net's records; see fed_net.open_device_feed."""
    group = run.solver.iter_size if fed is run.train else 1
    return fed_net.open_device_feed(fed, run.mesh, positions, group, at_once)


def load_weight_files(
    net: Net,
    params: Params,
    stats: Stats,
    paths: Sequence[str],
    must_fit: bool = True,
) -> tuple[Params, Stats]:
    """Copies .caffemodel or .caffemodel.h5 files over weights, by layer name.

    Logs what was copied, ignored and left as filled. With `must_fit` each file must
    hold weights of some layer.

    Raises:
      SnapshotError: a file is missing or broken, holds weights of none of the layers
        but must, or a layer's blobs do not fit.
    """
    for path in paths:
        params, stats, report = copy_weights(net, params, stats, path)
        if must_fit and not report.loaded:
            held = ", ".join(report.ignored[:_SHOWN]) or "no layer at all"
            wanted = ", ".join(report.missing[:_SHOWN])
            problem = f"holds weights of none of the net's layers, but of {held}"
            accepted = f"layers that have weights in the net: {wanted}"
            raise SnapshotError(describe(path, problem, accepted))
        for name in report.ignored:
            logger.info("Ignoring source layer %s", name)
        for name in report.missing:
            logger.info("Layer %s has no weights in %s and keeps its own", name, path)
        logger.info("Copied the weights of %d layers from %s", len(report.loaded), path)
    return params, stats


def _init(run: Run) -> Callable[[jax.Array], TrainState]:
    def init(key: jax.Array) -> TrainState:
        fill_key, step_key = jax.random.split(key)
        params, stats = run.train.net.init(fill_key)
        hidden = tuple(
            pick_hidden(fed.net, run.train.net, fed.net.init(fill_key)[1])
            for fed in run.tests
        )
        return init_state(
            params, stats, run.tx, step_key, run.solver.average_loss, hidden
        )

    return init


def _open_optimizer(
    config: ml_collections.ConfigDict, net: Net, rates: optax.Schedule
) -> optax.GradientTransformation | None:
    if not config.optimizer:
        return None
    params, _ = jax.eval_shape(net.init, jax.random.key(0))
    return optimizer.open_optimizer(config.optimizer, rates, lr_mults(net), params)


def _set_prefix(solver: caffe_pb2.SolverParameter, path: str) -> None:
    """Sets snapshot_prefix to where snapshots go, and says so if it was not."""
    found = find_snapshot_prefix(solver, path)
    if not solver.HasField("snapshot_prefix"):
        logger.info("snapshot_prefix was not specified and is set to %s", found)
    elif found != solver.snapshot_prefix:
        logger.info("snapshot_prefix was a directory and is replaced to %s", found)
    solver.snapshot_prefix = found


def _choose_seed(
    config: ml_collections.ConfigDict, solver: caffe_pb2.SolverParameter
) -> int:
    if config.seed >= 0:
        return config.seed
    if solver.random_seed >= 0:
        return solver.random_seed
    return time.time_ns() % 2**31


def read_use(
    use: nets.NetUse, solver_source: text.Source, index: int = 0
) -> tuple[caffe_pb2.NetParameter, text.Source]:
    """Reads a net that a solver names, upgraded to the present format.

    Args:
      use: one of solver.nets.solver_nets.
      solver_source: where the solver stands.
      index: of the test net.

    Raises:
      PrototxtError: the file is missing or malformed.
    """
    if isinstance(use.net, str):
        net, source = text.read_net(_find_net(use.net, solver_source.path))
    else:
        net, source = use.net, solver_source.net(use.kind, index)
    return upgrade.upgrade_net(net, source), source


def _open_use(
    config: ml_collections.ConfigDict,
    use: nets.NetUse,
    solver_source: text.Source,
    seed: int,
    mesh: jax.sharding.Mesh,
    weights: Sequence[str],
    index: int = 0,
    trained: Sequence[ParamInfo] = (),
) -> FedNet:
    logger.info("%s", _creating_line(use, index))
    net, source = read_use(use, solver_source, index)
    for path in weights:
        # Read when the run starts; one that is missing is better known now.
        refuse_missing(path, SnapshotError)
    is_train = use.phase == caffe_pb2.TRAIN
    built = fed_net.build_fed_graph(net, use, source)
    if is_train and config.batch == "per_device":
        built = fed_net.scale_batches(built, mesh.size)
    fed = fed_net.feed_net(config, built, use, seed, mesh, trained)
    for path in weights:
        logger.info("Finetuning from %s", path)
    return fed


def _creating_line(use: nets.NetUse, index: int) -> str:
    """Returns Caffe's line on a net that it is about to make."""
    if use.phase == caffe_pb2.TRAIN:
        if isinstance(use.net, str):
            kind = "train_net" if use.kind == "train_net" else "net"
            return f"Creating training net from {kind} file: {use.net}"
        return f"Creating training net specified in {use.kind}."
    file = f" file: {use.net}" if isinstance(use.net, str) else ""
    return f"Creating test net (#{index}) specified by {use.kind}{file}"


def _weight_files(
    config: ml_collections.ConfigDict, solver: caffe_pb2.SolverParameter
) -> tuple[str, ...]:
    named = config.weights.split(",") if config.weights else []
    files = named or [f for entry in solver.weights for f in entry.split(",")]
    return tuple(file.strip() for file in files if file.strip())


def _find_net(path: str, solver_path: str) -> str:
    """Resolves a net's path as Caffe does, and beside the solver where that fails."""
    beside = os.path.join(os.path.dirname(solver_path), path)
    return beside if not os.path.exists(path) and os.path.exists(beside) else path
