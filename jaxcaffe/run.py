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
import jax.numpy as jnp
import ml_collections
import optax

from jaxcaffe import checkpoint, errors, sharding, step
from jaxcaffe.augment import make_augment
from jaxcaffe.caffe_files.weights import copy_weights
from jaxcaffe.data import pipeline
from jaxcaffe.labels import label_limits
from jaxcaffe.log import logger
from jaxcaffe.net import graph, translate
from jaxcaffe.net.params import decay_mults, lr_mults, trainable
from jaxcaffe.prefetch import DeviceFeed
from jaxcaffe.proto import caffe_pb2, text, upgrade
from jaxcaffe.solver import build, check, nets, optimizer, schedule
from jaxcaffe.solver.prefix import find_snapshot_prefix
from jaxcaffe.spec import Blobs, Graph, Net, ParamInfo, Params, Stats
from jaxcaffe.state import TrainState, init_state, pick_hidden
from jaxcaffe.user_layers import load_layers

_SHOWN = 6  # layers named in one message


class FedNet(NamedTuple):
    """A net with the records that feed it."""

    net: Net
    feeds: tuple[pipeline.Feed, ...]
    options: pipeline.FeedOptions
    augment: step.Augment
    batch_structs: dict[str, jax.ShapeDtypeStruct]  # of one host batch
    sharding: jax.sharding.NamedSharding  # of one host batch
    test_iter: int  # batches of one test; 0 for the train net


class Run(NamedTuple):
    """A run before its first step. Nothing is compiled, no weight exists yet."""

    config: ml_collections.ConfigDict
    solver: caffe_pb2.SolverParameter
    max_iter: int
    seed: int
    mesh: jax.sharding.Mesh
    train: FedNet
    tests: tuple[FedNet, ...]
    tx: optax.GradientTransformation
    schedule: optax.Schedule


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
) -> Run:
    """Reads the solver, its nets and the first records, and checks all of them.

    Args:
      config: from config.load_config.
      seed: of the run that goes on; None for a new run.
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
    solver.snapshot_prefix = find_snapshot_prefix(solver, config.solver)
    if config.max_iter:
        solver.max_iter = config.max_iter  # the rates of poly depend on it
    if seed is None:
        seed = _choose_seed(config, solver)
    mesh = sharding.make_mesh(config.devices)
    uses = nets.ask(nets.solver_nets(solver, source.path), asked)
    train = _open_use(config, uses.train, source, seed, mesh)
    tests = tuple(
        _open_use(config, use, source, seed, mesh, index, train.net.params)
        for index, use in enumerate(uses.tests)
    )
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


def compile_train_step(
    run: Run,
) -> Callable[[TrainState, Blobs], tuple[TrainState, step.StepReport]]:
    """Returns the jitted training step; the state given to it is used up."""
    whole = sharding.replicated(run.mesh)
    fed = run.train
    train_step = step.make_train_step(
        net=fed.net,
        augment=fed.augment,
        tx=run.tx,
        schedule=run.schedule,
        trainable=trainable(fed.net),
        iter_size=run.solver.iter_size,
        keep_updates=run.config.snapshot.caffe and run.solver.snapshot_diff,
    )
    return jax.jit(train_step, donate_argnums=0, out_shardings=(whole, whole))


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
    run: Run, fed: FedNet, positions: Mapping[str, int] | None = None
) -> DeviceFeed:
    """Starts reading a net's records from the given positions on."""
    group = run.solver.iter_size if fed is run.train else 1
    where = fed.sharding if group == 1 else sharding.split_batch(run.mesh, leading=1)
    return DeviceFeed(
        pipeline.FeedReader(fed.feeds, fed.options, positions),
        lambda batch: sharding.put_batch(batch, where),
        group,
    )


def load_weight_files(
    net: Net, params: Params, stats: Stats, paths: Sequence[str]
) -> tuple[Params, Stats]:
    """Copies .caffemodel or .caffemodel.h5 files over weights, by layer name.

    Logs what was copied, ignored and left as filled.

    Raises:
      SnapshotError: a file is missing or broken, holds weights of none of the layers,
        or a layer's blobs do not fit.
    """
    for path in paths:
        params, stats, report = copy_weights(net, params, stats, path)
        if not report.loaded:
            held = ", ".join(report.ignored[:_SHOWN]) or "no layer at all"
            wanted = ", ".join(report.missing[:_SHOWN])
            problem = f"holds weights of none of the net's layers, but of {held}"
            accepted = f"layers that have weights in the net: {wanted}"
            raise errors.SnapshotError(errors.describe(path, problem, accepted))
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
    index: int = 0,
    trained: Sequence[ParamInfo] = (),
) -> FedNet:
    net, source = read_use(use, solver_source, index)
    is_train = use.phase == caffe_pb2.TRAIN
    built = graph.build_graph(net, nets.merge_state(use, net), source)
    if not built.nodes:
        phase = caffe_pb2.Phase.Name(use.phase)
        raise errors.PrototxtError(
            errors.describe(
                source.path,
                f"the net has no layer for phase {phase}, the level and the stages "
                "asked for",
                "layers whose include and exclude rules let them in",
            )
        )
    if is_train and config.batch == "per_device":
        built = scale_batches(built, mesh.size)
    return _feed_net(config, built, use, seed, mesh, trained)


def _find_net(path: str, solver_path: str) -> str:
    """Resolves a net's path as Caffe does, and beside the solver where that fails."""
    beside = os.path.join(os.path.dirname(solver_path), path)
    return beside if not os.path.exists(path) and os.path.exists(beside) else path


def scale_batches(built: Graph, devices: int) -> Graph:
    """Returns the graph with each data layer's batch_size times `devices`."""
    nodes = []
    for node in built.nodes:
        if node.layer.type in pipeline.FEED_PARAMS:
            layer = caffe_pb2.LayerParameter()
            layer.CopyFrom(node.layer)
            getattr(layer, pipeline.FEED_PARAMS[layer.type]).batch_size *= devices
            node = node._replace(layer=layer)
        nodes.append(node)
    return built._replace(nodes=tuple(nodes))


def _feed_net(
    config: ml_collections.ConfigDict,
    built: Graph,
    use: nets.NetUse,
    seed: int,
    mesh: jax.sharding.Mesh,
    trained: Sequence[ParamInfo],
) -> FedNet:
    data = config.data
    sources = {"TRAIN": data.source_train, "TEST": data.source_test}
    options = pipeline.FeedOptions(
        seed=seed,
        shuffle=data.shuffle,
        sources={phase: source for phase, source in sources.items() if source},
        tfds_dir=data.tfds_dir or None,
        resize=data.resize,
        size=data.size,
        crop_on_host=True if data.crop_on_host else None,
        threads=data.threads,
        prefetch=data.prefetch,
        processes=data.processes,
    )
    nodes = [node for node in built.nodes if node.layer.type in pipeline.FEED_PARAMS]
    feeds = [
        pipeline.open_feed(node.layer, use.phase, options, node.where) for node in nodes
    ]
    batch_sharding = _check_batches(feeds, mesh, is_train=use.phase == caffe_pb2.TRAIN)
    structs = {top: struct for feed in feeds for top, struct in feed.structs.items()}
    augment = make_augment(
        [node.layer for node in nodes], structs, use.phase, [n.where for n in nodes]
    )
    batch_structs = {
        top: jax.ShapeDtypeStruct(*struct) for top, struct in structs.items()
    }
    feed_structs = jax.eval_shape(augment, batch_structs, jax.random.key(0))
    net = translate.build_net(built, feed_structs, trained)
    augment = _add_inputs(augment, net)
    limits = label_limits(net)
    limited = tuple(pipeline.limit_labels(feed, limits) for feed in feeds)
    return FedNet(
        net, limited, options, augment, batch_structs, batch_sharding, use.test_iter
    )


def _add_inputs(augment: step.Augment, net: Net) -> step.Augment:
    """Feeds Input layers, which nobody fills in training, with zeros as Caffe does."""
    nodes = [node for node in net.graph.nodes if node.layer.type == "Input"]
    if not nodes:
        return augment
    structs = {top: net.structs[top] for node in nodes for top in node.tops}
    logger.warning("Input layers get zeros: %s", ", ".join(structs))

    def with_inputs(batch: Blobs, key: jax.Array) -> Blobs:
        zeros = {top: jnp.zeros(s.shape, s.dtype) for top, s in structs.items()}
        return {**augment(batch, key), **zeros}

    return with_inputs


def _check_batches(
    feeds: Sequence[pipeline.Feed], mesh: jax.sharding.Mesh, is_train: bool
) -> jax.sharding.NamedSharding:
    """Returns how batches lie on the devices, and logs it.

    A test batch that cannot be divided is computed whole on every device, so that test
    nets made for one device run on any number. A training batch is refused.
    """
    divided = all(feed.batch_size % mesh.size == 0 for feed in feeds)
    for feed in feeds:
        if is_train:
            where = errors.describe_layer(feed.where, feed.name, feed.layer.type, "")
            sharding.check_batch_size(feed.batch_size, mesh, where.rstrip(". :"))
        each = feed.batch_size // mesh.size if divided else feed.batch_size
        logger.info(
            "Layer %s: %d records, batches of %d (global), %d on each of %d device(s)",
            feed.name,
            feed.num_records,
            feed.batch_size,
            each,
            mesh.size,
        )
    if divided:
        return sharding.split_batch(mesh)
    return sharding.replicated(mesh)
