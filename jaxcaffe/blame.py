"""Finds the layer from which a loss that is not a finite number came."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxcaffe import sharding, step
from jaxcaffe.data import pipeline
from jaxcaffe.run import Run
from jaxcaffe.state import TrainState


def name_first_non_finite(
    run: Run, state: TrainState, positions: Mapping[str, int], iteration: int
) -> str:
    """Finds the layer in which a bad iteration's loss first was not finite.

    Args:
      run: the run.
      state: as the bad iteration found it; state.iter names that iteration.
      positions: data layer -> records consumed after iteration `iteration` - 1.
      iteration: any iteration from the bad one on.

    Returns:
      A phrase such as `layer "ip2" (InnerProduct), top "ip2"`.
    """
    fed = run.train
    for layer, blobs in state.params.items():
        for blob, array in blobs.items():
            if not bool(jnp.all(jnp.isfinite(array))):
                return f'layer "{layer}", learned blob "{blob}"'
    back = (iteration - int(state.iter)) * run.solver.iter_size
    start = {f.name: positions[f.name] - back * f.batch_size for f in fed.feeds}
    reader = pipeline.FeedReader(fed.feeds, fed.options, start)
    check_step = jax.jit(
        step.make_finite_check(net=fed.net, augment=fed.augment), static_argnums=2
    )
    try:
        for part in range(run.solver.iter_size):
            batch = sharding.put_batch(next(reader), fed.sharding)
            finite = jax.device_get(check_step(state, batch, part))
            for node in fed.net.graph.nodes:
                for top in node.tops:
                    if not finite[top]:
                        kind = node.layer.type
                        return f'layer "{node.layer.name}" ({kind}), top "{top}"'
    finally:
        reader.close()
    return "the loss alone"
