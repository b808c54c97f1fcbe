"""Runs steps of a net in jaxcaffe, as versus_torch.py asks for them."""

from __future__ import annotations

import json
import sys

import jax
from turns import serve

from jaxcaffe import cpu, grouping, sharding
from jaxcaffe import run as runs
from jaxcaffe.net import graph, translate
from jaxcaffe.net.params import decay_mults, lr_mults, trainable
from jaxcaffe.profiling.from_net import feed_structs, make_feeds
from jaxcaffe.proto import caffe_pb2, text, upgrade
from jaxcaffe.solver import build, schedule
from jaxcaffe.spec import Blobs, Net
from jaxcaffe.state import TrainState, init_state
from jaxcaffe.step import make_train_step

SOLVER = """
base_lr: {rate} lr_policy: "fixed" momentum: {momentum} weight_decay: {decay}
"""


def main(task: dict) -> None:
    """Builds the net that `task` names, compiles it, warms it up, and serves."""
    cpu.tune_cpu()
    runs.set_precision(task.get("precision", "parity"))
    is_train = task["kind"] == "train"
    net = open_net(
        task["net"],
        caffe_pb2.TRAIN if is_train else caffe_pb2.TEST,
        task["batch"],
        tuple(task["shape"]),
    )
    mesh = sharding.make_mesh()
    feeds = jax.device_put(
        make_feeds(net, jax.random.key(1)), sharding.split_batch(mesh)
    )
    if is_train:
        run = make_train(net, feeds, task["solver"], task.get("steps_per_dispatch", 1))
    else:
        run = make_forward(net, feeds)
    run(2)
    serve(run)


def open_net(path: str, phase: int, batch: int, shape: tuple[int, ...]) -> Net:
    """Builds a net of a train_val.prototxt with another batch_size and crop_size.

    Args:
      path: the file.
      phase: caffe_pb2.TRAIN or caffe_pb2.TEST.
      batch: images.
      shape: (C, H, W) of an image.
    """
    parameter, source = text.read_net(path)
    parameter = upgrade.upgrade_net(parameter, source)
    for layer in parameter.layer:
        for field, message in layer.ListFields():
            if field.name.endswith("data_param"):
                message.batch_size = batch
        if layer.transform_param.crop_size:
            layer.transform_param.crop_size = shape[-1]
    built = graph.build_graph(parameter, caffe_pb2.NetState(phase=phase), source)
    return translate.build_net(built, feed_structs(built, phase, shape))


def make_train(net: Net, feeds: Blobs, numbers: dict, at_once: int):
    """Returns run(steps), which trains: the very step of a training run.

    Args:
      net: the TRAIN net.
      feeds: what its data layers give, always the same.
      numbers: of the solver.
      at_once: a run's steps_per_dispatch.
    """
    solver = text.parse_solver(SOLVER.format(**numbers), "")[0]
    tx = build.build_tx(solver, lr_mults(net), decay_mults(net), "")
    step = make_train_step(
        net=net,
        augment=lambda batch, key: batch,
        tx=tx,
        schedule=schedule.make_schedule(solver, ""),
        trainable=trainable(net),
        iter_size=1,
    )

    def fill(key: jax.Array) -> TrainState:
        params, stats = net.init(key)
        return init_state(params, stats, tx, key, 1)

    whole = sharding.replicated(sharding.make_mesh())
    held = [jax.jit(fill, out_shardings=whole)(jax.random.key(0))]
    program = grouping.make_group_step(step) if at_once > 1 else step
    jitted = jax.jit(program, donate_argnums=0, out_shardings=(whole, whole))
    paced = cpu.pace_steps(jitted)
    advance = (
        grouping.advance_by_group(paced, at_once)
        if at_once > 1
        else grouping.advance_by_one(paced)
    )

    def run(steps: int) -> None:
        report = None
        for done in range(0, steps, at_once):
            batches = (feeds,) * min(at_once, steps - done)
            held[0], report = advance(held[0], batches)
        jax.block_until_ready((held[0], report))

    return run


def make_forward(net: Net, feeds: Blobs):
    """Returns run(steps), which computes the net's outputs."""
    params, stats = jax.jit(net.init)(jax.random.key(0))

    @jax.jit
    def forward(params, stats, feeds, key):
        out = net.apply(params, stats, feeds, key)
        return out.loss, {name: out.blobs[name] for name in net.graph.outputs}

    key = jax.random.key(2)

    def run(steps: int) -> None:
        for _ in range(steps):
            jax.block_until_ready(forward(params, stats, feeds, key))

    return run


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
