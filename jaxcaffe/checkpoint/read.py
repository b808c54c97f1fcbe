"""Reads snapshots: a run's whole state, or a net's weights alone.

Takes the place of Restore in caffe/src/caffe/solver.cpp.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jaxcaffe import errors
from jaxcaffe.checkpoint import folder as folders
from jaxcaffe.checkpoint.note import (
    NOTE,
    STATE,
    BrokenSnapshotError,
    note_handler,
    nothing_to_resume,
    reading,
)
from jaxcaffe.log import logger
from jaxcaffe.spec import Shape
from jaxcaffe.state import TrainState, fit_window

Trees = dict[str, dict[str, dict[str, np.ndarray]]]
""" "params" and "stats" -> layer -> blob -> float32 array."""

_SHOWN = 6  # differences named in one message


def restore(
    path: str, like: TrainState, shardings: Any, solver_type: str = ""
) -> tuple[TrainState, dict[str, Any]]:
    """Reads one snapshot.

    Hidden states of test nets that the snapshot lacks, or has for other batch sizes,
    start as zeros, which is logged.

    Args:
      path: the folder of one snapshot, `.../snapshots/1000`.
      like: a state of the wanted shapes (arrays or ShapeDtypeStructs).
      shardings: where each leaf goes, one for all.
      solver_type: the run's, which must be the snapshot's; "" asks for none.

    Returns:
      The state on the devices, and the note: "positions", "seed", "environment".

    Raises:
      SnapshotError: no snapshot there, or broken, or of another net or solver.
    """
    with reading(path):
        note = note_handler().restore(epath.Path(path) / NOTE)
        _check_solver_type(path, note, solver_type)
        # The loss window may have another length; it is refitted here.
        wanted = {**like._asdict(), "losses": None, "hidden": ()}
        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
            held = _read_tree_metadata(handler, path)
            needed = {n: tuple(x.shape) for n, x in _leaves(wanted).items()}
            _check_same_net(path, _state_shapes(held), needed)
            found = _leaves(
                _read_parts(
                    handler,
                    path,
                    held,
                    lambda leaf: ocp.ArrayRestoreArgs(
                        sharding=shardings, dtype=leaf.dtype
                    ),
                )
            )
    hidden = tuple(
        _pick_hidden(index, stats, found, shardings)
        for index, stats in enumerate(like.hidden)
    )
    state = TrainState(
        **jax.tree_util.tree_map_with_path(
            lambda keys, _: found[_name(keys)], {**wanted, "losses": like.losses}
        )
    )
    state = fit_window(state._replace(hidden=hidden), like.losses.shape[0])
    return state, note


def restore_latest(
    folder: str, like: TrainState, shardings: Any, solver_type: str = ""
) -> tuple[TrainState, dict[str, Any], str]:
    """Reads the newest snapshot that is whole; broken ones are set aside.

    A broken folder is renamed to NAME.broken, so that the resumed run can write the
    same iteration again.

    Args:
      folder: that the run's snapshots are in.
      like: see `restore`.
      shardings: see `restore`.
      solver_type: see `restore`.

    Returns:
      What `restore` returns, and the path that was read.

    Raises:
      SnapshotError: no snapshot, none whole, or the newest whole one is of another
        net or cannot be read for a passing reason. Nothing is renamed then.
    """
    broken: list[tuple[str, BrokenSnapshotError]] = []
    for step in reversed(folders.steps(folder)):
        path = os.path.join(folder, str(step))
        try:
            state, note = restore(path, like, shardings, solver_type)
        except BrokenSnapshotError as error:
            broken.append((path, error))
            continue
        # Only now: had nothing been readable, the fault might not be the snapshots'.
        for bad, problem in broken:
            logger.warning("%s Set aside as %s.", problem, folders.set_aside(bad))
        return state, note, path
    raise broken[0][1] if broken else nothing_to_resume(folder)


def read_weights(path: str) -> Trees:
    """Reads the params and stats of a snapshot, and nothing else of it.

    Args:
      path: the folder of one snapshot, `.../snapshots/1000`.

    Raises:
      SnapshotError: it is no snapshot, or broken.
    """
    with (
        reading(path),
        contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler,
    ):
        held = _read_tree_metadata(handler, path)
        parts = {part: held[part] for part in ("params", "stats")}
        # As numpy arrays: the devices of the run need not be here.
        return _read_parts(
            handler,
            path,
            parts,
            lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype),
        )


def _read_tree_metadata(
    handler: ocp.PyTreeCheckpointHandler, path: str
) -> dict[str, Any]:
    """Returns the tree of a snapshot's state, with shapes and dtypes for leaves."""
    return handler.metadata(epath.Path(os.path.abspath(path)) / STATE).tree


def _read_parts(
    handler: ocp.PyTreeCheckpointHandler,
    path: str,
    parts: Mapping[str, Any],
    make_args: Callable[[Any], ocp.RestoreArgs],
) -> Any:
    """Returns some parts of a snapshot's tree, with arrays for leaves."""
    item = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), parts
    )
    return handler.restore(
        epath.Path(os.path.abspath(path)) / STATE,
        args=ocp.args.PyTreeRestore(
            item=item,
            restore_args=jax.tree.map(make_args, item),
            partial_restore=True,
        ),
    )


def _state_shapes(held: Mapping[str, Any]) -> dict[str, Shape]:
    """Returns the shapes of all leaves that a run must have just so."""
    fixed = {k: v for k, v in held.items() if k not in ("losses", "hidden")}
    return {name: tuple(leaf.shape) for name, leaf in _leaves(fixed).items()}


def _pick_hidden(
    index: int, like: Any, found: Mapping[str, jax.Array], shardings: Any
) -> Any:
    wanted = _leaves(like)
    names = {name: f"hidden/{index}/{name}" for name in wanted}
    if all(
        full in found and found[full].shape == wanted[name].shape
        for name, full in names.items()
    ):
        return jax.tree_util.tree_map_with_path(
            lambda keys, _: found[names[_name(keys)]], like
        )
    layers = ", ".join(f'"{layer}"' for layer in like)
    logger.warning(
        "The snapshot has no hidden state for layers %s of test net #%d as it is now; "
        "it starts anew",
        layers,
        index,
    )
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    return jax.device_put(zeros, shardings)


def _leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves by path, in the words that a snapshot uses too."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(keys): leaf for keys, leaf in flat}


def _name(keys: Sequence[Any]) -> str:
    return "/".join(
        str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in keys
    )


def _check_solver_type(path: str, note: Mapping[str, Any], solver_type: str) -> None:
    # Snapshots of earlier versions say nothing of it.
    held = note.get("solver_type", solver_type)
    if solver_type and held != solver_type:
        wanted = held if held.startswith("config.") else f'type: "{held}"'
        raise errors.SnapshotError(
            errors.describe(
                path,
                f'was taken by a solver of type "{held}", the solver has type '
                f'"{solver_type}"',
                f"{wanted}, or a new run that starts from its weights",
            )
        )


def _check_same_net(
    path: str, held: Mapping[str, Shape], wanted: Mapping[str, Shape]
) -> None:
    missing = sorted(wanted.keys() - held.keys())
    extra = sorted(held.keys() - wanted.keys())
    other = [
        f"{name} has shape {held[name]}, the run needs {wanted[name]}"
        for name in sorted(wanted.keys() & held.keys())
        if held[name] != wanted[name]
    ]
    found = (
        [f"missing {n}" for n in missing] + [f"superfluous {n}" for n in extra] + other
    )
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise errors.SnapshotError(
            errors.describe(
                path,
                f"belongs to another net or solver: {'; '.join(found[:_SHOWN])}{more}",
                "a snapshot of this net and solver",
            )
        )
