"""Training steps compiled for a TPU that is not there.

libtpu (`pip install libtpu`) holds the compiler; JAX asks it for a topology by name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from our_worker import SOLVER, open_net

from jaxcaffe.net.params import decay_mults, lr_mults, trainable
from jaxcaffe.proto import caffe_pb2, text
from jaxcaffe.solver import build, schedule
from jaxcaffe.state import TrainState, init_state
from jaxcaffe.step import make_train_step

NUMBERS = {"rate": 0.01, "momentum": 0.9, "decay": 0.0005}
_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "pred": 1, "s8": 1}


class Program(NamedTuple):
    """What the compiler says of a compiled step; all numbers are of one device."""

    flops: float
    bytes: float  # read and written
    arguments: int  # bytes: weights, history and the batch
    temporary: int  # bytes
    reduced: int  # bytes summed over devices
    parameters: int  # bytes of weights


def open_topology(name: str) -> Sequence[Any]:
    """Returns the devices of a TPU topology, such as "v5e:2x4".

    Raises:
      SystemExit: libtpu is not installed, or knows no such topology.
    """
    # It would look for a machine with a TPU otherwise.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nobody uses a chip
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(name, "tpu").devices
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise SystemExit(
            f"no TPU topology {name}: {reason}. Accepted: `pip install libtpu`, then a "
            "name such as v5e:2x2"
        ) from None


def compile_step(
    path: str,
    batch: int,
    shape: tuple[int, ...],
    devices: Sequence[Any],
    platform: str = "tpu",
) -> Program:
    """Compiles a training step whose batch is divided over some devices.

    Args:
      path: a train_val.prototxt.
      batch: images for each device.
      shape: (C, H, W) of an image.
      devices: from `open_topology`, or others.
      platform: theirs.
    """
    mesh = Mesh(np.asarray(devices), ("data",))
    whole = NamedSharding(mesh, PartitionSpec())
    parts = NamedSharding(mesh, PartitionSpec("data"))
    net = open_net(path, caffe_pb2.TRAIN, batch * len(devices), shape)
    solver = text.parse_solver(SOLVER.format(**NUMBERS), "")[0]
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

    state = _place(jax.eval_shape(fill, jax.random.key(0)), whole)
    feeds = {
        top: net.structs[top]
        for node, call in zip(net.graph.nodes, net.calls, strict=True)
        if call is None
        for top in node.tops
    }
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(whole, whole))
    lowered = jitted.trace(state, _place(feeds, parts)).lower(
        lowering_platforms=(platform,)
    )
    compiled = lowered.compile()
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    return Program(
        flops=cost["flops"],
        bytes=cost["bytes accessed"],
        arguments=memory.argument_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        reduced=count_reduced(compiled.as_text()),
        parameters=sum(s.size * 4 for s in jax.tree.leaves(state.params)),
    )


def count_reduced(text: str) -> int:
    """Returns the bytes that all all-reduces of a program's text take together."""
    total = 0
    # An all-reduce that runs beside other work is a pair, of which one counts.
    for shapes in re.findall(r"= (.*?) all-reduce(?:-start)?\(", text):
        for kind, sizes in re.findall(r"\b([a-z]+[0-9]*)\[([0-9,]*)\]", shapes):
            count = np.prod([int(n) for n in sizes.split(",") if n], dtype=np.int64)
            total += int(count) * _BYTES.get(kind, 0)
    return total


def _place(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), tree
    )
