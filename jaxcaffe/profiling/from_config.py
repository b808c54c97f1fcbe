"""A run, with its data and its compiled step, as a subject to profile.

Follows the time command of caffe/tools/caffe.cpp, which takes a net alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from jaxcaffe import run as runs
from jaxcaffe import sharding, step
from jaxcaffe.data import pipeline
from jaxcaffe.errors import ConfigError, describe
from jaxcaffe.prefetch import DeviceFeed
from jaxcaffe.profiling.subject import Arguments, Program, Subject
from jaxcaffe.profiling.timing import Cost, compile_program, time_call
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Blobs, Params, Stats
from jaxcaffe.state import TrainState, add_hidden, pick_hidden

_ON_DEVICE = 2  # batches that DeviceFeed keeps under way


def open_config(
    config: ml_collections.ConfigDict, path: str, asked: caffe_pb2.NetState
) -> Subject:
    """Opens a run as training does, and takes its first batch.

    Args:
      config: from config.load_config.
      path: of the config, for the report.
      asked: phase TRAIN for the training step, TEST for the first test net; level and
        stages of that net, put over the solver's.

    Raises:
      CaffeError: whatever the files, the data or the config say that cannot be; TEST
        for a run without test nets.
    """
    phase = asked.phase
    run = runs.open_run(config, asked=asked)
    if phase == caffe_pb2.TEST and not run.tests:
        raise ConfigError(
            describe("--phase", f"is TEST, and {path} has no test net", "TRAIN")
        )
    state = runs.make_state(run)
    fed = run.train if phase == caffe_pb2.TRAIN else run.tests[0]
    feed = runs.open_device_feed(run, fed)
    try:
        batch = next(feed)
        one = _first_part(batch, run, fed)
        key = jax.random.key(run.seed)
        if phase == caffe_pb2.TRAIN:
            params, stats = state.params, state.stats
            programs = _train_programs(run, state, batch, one, feed)
        else:
            own_params, own_stats = jax.jit(fed.net.init)(key)
            params = {**state.params, **own_params}
            stats = add_hidden(state.stats, own_stats)
            programs = (_test_program(run, fed, params, stats, batch, feed),)
        return Subject(
            path=path,
            net=fed.net,
            # The training step uses its state up; the layers need theirs.
            params=jax.tree.map(jnp.copy, params),
            stats=jax.tree.map(jnp.copy, stats),
            feeds=jax.jit(fed.augment)(one, key),
            key=key,
            images=fed.feeds[0].batch_size * _group(run, fed) if fed.feeds else 1,
            devices=run.mesh.size,
            precision=config.precision,
            time_feeds=lambda iterations: time_feeds(fed, one, key, iterations),
            programs=programs,
            close=feed.close,
        )
    except BaseException:
        feed.close()
        raise


def time_feeds(
    fed: runs.FedNet, batch: Blobs, key: jax.Array, iterations: int
) -> Mapping[str, float]:
    """Times the reading of each data layer by itself, and their transformation.

    Args:
      fed: the net with its feeds.
      batch: one batch on the device.
      key: of the transformation's random numbers.
      iterations: batches that each mean is taken over.

    Returns:
      Data layer -> ms per batch on the host, with all threads and nothing else to do;
      and "augment" -> ms per batch on the device.
    """
    times: dict[str, float] = {}
    for feed in fed.feeds:
        with pipeline.FeedReader((feed,), fed.options) as reader:
            for _ in range(fed.options.prefetch + 1):
                next(reader)
            begin = time.perf_counter()
            for _ in range(iterations):
                next(reader)
            times[feed.name] = (time.perf_counter() - begin) / iterations * 1e3
    augment = jax.jit(fed.augment)
    times["augment"] = time_call(lambda: augment(batch, key), iterations)
    return times


def _group(run: runs.Run, fed: runs.FedNet) -> int:
    """Returns how many host batches one step takes."""
    return run.solver.iter_size if fed is run.train else 1


def _first_part(batch: Blobs, run: runs.Run, fed: runs.FedNet) -> Blobs:
    if _group(run, fed) == 1:
        return batch
    return {name: array[0] for name, array in batch.items()}


def _train_programs(
    run: runs.Run, state: TrainState, batch: Blobs, one: Blobs, feed: DeviceFeed
) -> tuple[Program, ...]:
    whole = sharding.replicated(run.mesh)
    net, augment, iter_size = run.train.net, run.train.augment, run.solver.iter_size
    loss_step = step.make_loss_step(net=net, augment=augment)
    # Copies: the training step uses up the state it is given.
    kept = jax.tree.map(jnp.copy, state)

    def advance(arguments: Arguments, result: Any, batch: Blobs) -> Arguments:
        return result[0], batch

    def add_cost(cost: Cost) -> Cost:
        if iter_size == 1:
            return cost

        def part_loss(params: Params, state: TrainState, part: Blobs) -> jax.Array:
            return loss_step(state._replace(params=params), part)[0]

        part = compile_program(jax.jit(jax.grad(part_loss)), kept.params, kept, one)
        return cost._replace(
            flops=cost.flops + (iter_size - 1) * part.cost.flops,
            bytes=cost.bytes + (iter_size - 1) * part.cost.bytes,
        )

    batches = f" of {iter_size} batches" if iter_size > 1 else ""
    return (
        Program(
            f"Training step{batches} (augment, forward, backward, update)",
            runs.compile_train_step(run),
            (state, batch),
            advance,
            batch,
            feed,
            _read_ahead(run.train),
            add_cost,
        ),
        Program(
            "Forward alone" + (", of one batch" if iter_size > 1 else ""),
            jax.jit(loss_step, out_shardings=whole),
            (kept, one),
        ),
    )


def _test_program(
    run: runs.Run,
    fed: runs.FedNet,
    params: Params,
    stats: Stats,
    batch: Blobs,
    feed: DeviceFeed,
) -> Program:
    whole = sharding.replicated(run.mesh)
    hidden = pick_hidden(fed.net, run.train.net, stats)
    params, stats, hidden, sums, key = jax.device_put(
        (
            params,
            stats,
            hidden,
            runs.make_zero_sums(run, fed)(),
            jax.random.key(run.seed),
        ),
        whole,
    )

    def advance(arguments: Arguments, result: Any, batch: Blobs) -> Arguments:
        sums, hidden = result
        return params, stats, hidden, sums, batch, key

    return Program(
        "Test step (augment, forward)",
        runs.compile_eval_step(run, fed),
        (params, stats, hidden, sums, batch, key),
        advance,
        batch,
        feed,
        _read_ahead(fed),
    )


def _read_ahead(fed: runs.FedNet) -> int:
    return fed.options.prefetch + _ON_DEVICE
