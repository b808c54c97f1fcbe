"""Makes one layer of a net ready to run: its module taken apart, its shapes known.

Follows caffe/include/caffe/layer.hpp, SetUp and Forward.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from jaxcaffe.errors import LayerError, plural
from jaxcaffe.host.modules import blame
from jaxcaffe.layers import registry
from jaxcaffe.net.graph import layer_error
from jaxcaffe.net.params import LayerBlob
from jaxcaffe.spec import Blobs, Node, Shape

Tops = tuple[jax.Array, ...]


class Layer(NamedTuple):
    """A layer whose module has been built once, abstractly."""

    node: Node
    tops: tuple[jax.ShapeDtypeStruct, ...]
    params: dict[str, Shape]  # learned blobs
    stats: dict[str, Shape]  # updated by forward; hidden states are no blobs of Caffe's
    blobs: tuple[LayerBlob, ...]  # in Caffe's order
    init: Callable[[jax.Array], tuple[Blobs, Blobs]]  # the net's key -> params, stats
    # (params, stats, bottoms, the net's key) -> tops, new stats; for bottoms of other
    # shapes, as behind a Filter, the module is built anew
    run: Callable[[Blobs, Blobs, Sequence[jax.Array], jax.Array], tuple[Tops, Blobs]]


def build_layer(
    node: Node,
    bottoms: Sequence[jax.ShapeDtypeStruct],
    occurrence: int,
    force_backward: bool,
) -> Layer:
    """Builds a layer's module for its bottoms, without computing anything.

    The module is built and called once under eval_shape, which gives the shapes of its
    tops and blobs; afterwards only arrays are put into it.

    Args:
      node: a node that is no feed.
      bottoms: shape and dtype of each bottom.
      occurrence: how many layers before this one have its name; the keys of a layer
        depend on the two alone.
      force_backward: the net's; without it blobs with lr_mult 0 get no gradient.

    Raises:
      PrototxtError: the layer refuses its parameters or bottoms.
    """
    kind = registry.lookup(node.layer.type)
    assert kind is not None, node.layer.type
    salt = _salt(node.layer.name, occurrence)
    bottom_shapes = tuple(bottom.shape for bottom in bottoms)
    parts: list[tuple[Any, Any, tuple[str, ...]]] = []

    def make_module(key: jax.Array) -> nnx.Module:
        assert kind.module is not None
        make: Callable[..., nnx.Module] = kind.module
        slot = {} if node.slot is None else {"slot": node.slot}
        return make(node.layer, bottom_shapes, node.layer.phase, _Keys(key), **slot)

    def call_module(
        module: Any, bottoms: Sequence[jax.Array], key: jax.Array
    ) -> tuple[jax.Array, ...]:
        with jax.named_scope(node.layer.name):
            tops = module(*bottoms, key=key) if kind.random else module(*bottoms)
        tops = tops if isinstance(tops, tuple) else (tops,)
        if len(tops) != len(node.tops):
            assert kind.file, (node.layer.name, len(tops))
            raise LayerError(
                f"its class gives {plural(len(tops), 'array')}, and the layer has "
                f"{plural(len(node.tops), 'top')}",
                "one array per top, several as a tuple",
            )
        return tops

    def trace(bottoms: Sequence[jax.Array]) -> tuple[Blobs, Blobs, Tops]:
        key = jax.random.key(0)
        module = make_module(key)
        graphdef, params, stats, constants = _split(module)
        parts.append((graphdef, constants, _blob_names(module)))
        return params, stats, call_module(module, bottoms, key)

    try:
        params, stats, tops = jax.eval_shape(trace, tuple(bottoms))
    except LayerError as error:
        raise layer_error(node, error.problem, error.accepted) from error
    except (TypeError, ValueError) as error:
        given = ", ".join(
            f'"{name}" {bottom.shape}'
            for name, bottom in zip(node.bottoms, bottoms, strict=True)
        )
        reason = str(error).strip().split("\n")[0]
        if kind.file:
            reason, _ = blame(error, kind.file)
        raise layer_error(
            node, f"it cannot run on bottoms {given or 'none'}: {reason}"
        ) from error
    except Exception as error:
        if not kind.file:
            raise
        raise layer_error(node, *blame(error, kind.file)) from error
    graphdef, constants, names = parts[0]
    frozen = {
        name
        for name, spec in zip(names, node.layer.param, strict=False)
        if spec.lr_mult == 0 and not force_backward
    }

    shapes = {name: struct.shape for name, struct in (params | stats).items()}

    @functools.cache
    def rebuild(other_shapes: tuple[Shape, ...]) -> Layer:
        structs = [
            jax.ShapeDtypeStruct(shape, bottom.dtype)
            for shape, bottom in zip(other_shapes, bottoms, strict=True)
        ]
        other = build_layer(node, structs, occurrence, force_backward)
        for name, shape in (other.params | other.stats).items():
            if shape != shapes[name]:
                raise layer_error(
                    node,
                    f'"{name}" has shape {shapes[name]}, made for bottoms of shape '
                    f"{', '.join(map(str, bottom_shapes))}, but bottoms of shape "
                    f"{', '.join(map(str, other_shapes))} need {shape}",
                    "bottoms that need weights of one shape",
                )
        return other

    def init(key: jax.Array) -> tuple[Blobs, Blobs]:
        if not (params or stats):
            return {}, {}
        _, params_, stats_, _ = _split(make_module(jax.random.fold_in(key, salt)))
        return params_, stats_

    def run(
        params: Blobs, stats: Blobs, bottoms: Sequence[jax.Array], key: jax.Array
    ) -> tuple[Tops, Blobs]:
        given_shapes = tuple(bottom.shape for bottom in bottoms)
        if given_shapes != bottom_shapes:
            return rebuild(given_shapes).run(params, stats, bottoms, key)
        params = {
            name: jax.lax.stop_gradient(blob) if name in frozen else blob
            for name, blob in params.items()
        }
        bottoms = [
            bottom if propagate_down else jax.lax.stop_gradient(bottom)
            for bottom, propagate_down in zip(bottoms, node.propagate_down, strict=True)
        ]
        module = nnx.merge(graphdef, params, stats, constants)
        if kind.random:
            key = jax.random.fold_in(key, salt)
        tops = call_module(module, bottoms, key)
        return tops, _split(module)[2] if stats else {}

    return Layer(
        node=node,
        tops=tops,
        params={name: struct.shape for name, struct in params.items()},
        stats={name: struct.shape for name, struct in stats.items()},
        blobs=tuple(LayerBlob(n, shapes[n], n in stats) for n in names),
        init=init,
        run=run,
    )


class _Keys:
    """The part of nnx.Rngs that layers use: `params()` gives one key after another.

    nnx.Rngs counts in a traced variable, whose every write costs time in proportion to
    all that has been traced so far: seconds for a net of hundreds of layers.
    """

    def __init__(self, key: jax.Array) -> None:
        self._key = key
        self._count = 0

    def params(self) -> jax.Array:
        self._count += 1
        return jax.random.fold_in(self._key, self._count - 1)


def _split(module: nnx.Module) -> tuple[Any, Blobs, Blobs, Any]:
    """Returns what a module is made of, its variables as plain dicts of arrays."""
    graphdef, params, stats, constants = nnx.split(
        module, nnx.Param, nnx.BatchStat, ...
    )  # type: ignore[misc]
    # nnx takes a tracer for a setting.
    held = [((name,), value) for name, value in vars(module).items()]
    held = [(path, value) for path, value in held if isinstance(value, jax.Array)]
    for path, leaf in (*held, *nnx.to_flat_state(constants)):
        # A tracer would outlive its trace.
        if not isinstance(leaf, np.ndarray):
            name = ".".join(map(str, path))
            raise LayerError(
                f"attribute {name} of {type(module).__name__} is of type "
                f"{type(leaf).__name__}",
                "nnx.Param if it is learned, nnx.BatchStat if forward passes change "
                "it, a numpy array if it stays as it is",
            )
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(stats), constants


def _blob_names(module: nnx.Module) -> tuple[str, ...]:
    """Returns the blobs that the settings leave in, in Caffe's order."""
    names = getattr(module, "blobs", ())  # of the object, as a Python layer may add
    return tuple(name for name in names if getattr(module, name) is not None)


def _salt(name: str, occurrence: int) -> np.uint32:
    """Returns a number that stays as it is however the rest of the net changes."""
    text = f"{name}\0{occurrence}" if occurrence else name
    return np.uint32(zlib.crc32(text.encode()))
