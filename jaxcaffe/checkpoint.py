"""Snapshots through Orbax: asynchronous, atomic, exact.

One folder per snapshot, named after its iteration, holds the whole TrainState and a
JSON note with the data positions and the circumstances under which a resumed run is
bit-identical.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from jaxcaffe import errors
from jaxcaffe.log import logger
from jaxcaffe.state import TrainState, fit_window

Positions = Mapping[str, Mapping[str, int]]
"""Net ("train", "test0") -> data layer -> records that the steps have consumed."""


DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
"""The XLA flag under which a GPU sums in a fixed order."""


class BrokenSnapshotError(errors.SnapshotError):
    """A snapshot that was begun or damaged, so that it cannot be read."""


def open_snapshots(folder: str, keep: int) -> ocp.CheckpointManager:
    """Opens, and makes if needed, the folder that snapshots of a run go to.

    Args:
      folder: for instance `runs/lenet/snapshots`.
      keep: how many of the newest stay; 0 keeps all.

    Raises:
      SnapshotError: the folder cannot be made or written.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        probe = os.path.join(folder, f".probe-{os.getpid()}")
        with open(probe, "wb"):
            pass
        os.remove(probe)
    except OSError as error:
        raise errors.SnapshotError(
            errors.describe(
                folder,
                f"cannot write snapshots here ({error.strerror})",
                "a workdir that may be written",
            )
        ) from error
    return ocp.CheckpointManager(
        os.path.abspath(folder),
        options=ocp.CheckpointManagerOptions(
            max_to_keep=keep or None,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        ),
        item_names=("state", "note"),
    )


@contextlib.contextmanager
def hold_workdir(workdir: str) -> Iterator[None]:
    """Keeps other runs out of a workdir while this one uses it.

    Raises:
      ConfigError: another run uses it, or it cannot be made.
    """
    try:
        os.makedirs(workdir, exist_ok=True)
        lock = open(os.path.join(workdir, ".lock"), "w")  # noqa: SIM115
    except OSError as error:
        raise errors.ConfigError(
            errors.describe(
                workdir,
                f"cannot be used as workdir ({error.strerror})",
                "a folder that can be made and written",
            )
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise errors.ConfigError(
                errors.describe(
                    workdir,
                    "another run uses this workdir",
                    "another --config.workdir, or the end of that run",
                )
            ) from None
        except OSError:
            pass  # Some network file systems cannot lock; nothing else depends on it.
        yield


def save(
    manager: ocp.CheckpointManager, state: TrainState, note: Mapping[str, Any]
) -> str:
    """Starts writing a snapshot of `state`; returns its path at once.

    The values are taken before this returns, so the state may be donated to the next
    step. A snapshot is complete, and visible, after `wait`, or when a later save of
    the same manager has returned.

    Args:
      manager: from `open_snapshots`.
      state: to be kept.
      note: "positions" (see Positions), "seed" and whatever describes the run, as
        JSON has it.

    Raises:
      SnapshotError: the disk is full, or an earlier snapshot could not be written.
    """
    iteration = int(state.iter)
    path = os.path.join(os.fspath(manager.directory), str(iteration))
    if iteration in manager.all_steps():
        # The run stands where the snapshot was taken that it started from.
        return path
    try:
        manager.save(
            iteration,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state._asdict()),
                note=ocp.args.JsonSave(dict(note)),
            ),
            force=True,
        )
    except Exception as error:
        raise _write_error(manager, error) from error
    return path


def find_non_finite(state: TrainState) -> str | None:
    """Returns the name of a learned blob or statistic that is not finite, or None."""
    for tree in (state.params, state.stats):
        verdicts = jax.device_get(_all_finite(tree))
        for layer, blobs in verdicts.items():
            for blob, finite in blobs.items():
                if not finite:
                    return f'blob "{blob}" of layer "{layer}"'
    return None


@jax.jit
def _all_finite(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), tree)


def check(manager: ocp.CheckpointManager) -> None:
    """Raises SnapshotError if a snapshot under way has failed; waits for none."""
    try:
        manager.check_for_errors()
    except Exception as error:
        raise _write_error(manager, error) from error


def wait(manager: ocp.CheckpointManager) -> None:
    """Returns once every snapshot that was started is on disk.

    Raises:
      SnapshotError: one could not be written.
    """
    try:
        manager.wait_until_finished()
        manager.check_for_errors()
    except Exception as error:
        raise _write_error(manager, error) from error


def steps(folder: str) -> list[int]:
    """Returns the iterations of the complete snapshots in `folder`, ascending."""
    if not os.path.isdir(folder):
        return []
    return sorted(ocp.utils.checkpoint_steps(folder))


def read_note(path: str) -> dict[str, Any]:
    """Reads a snapshot's note: "positions", "seed", "environment" and more.

    Raises:
      SnapshotError: no snapshot there, or no readable note in it.
    """
    with _reading(path) as (manager, step):
        args = ocp.args.Composite(note=ocp.args.JsonRestore())
        return manager.restore(step, args=args)["note"]


def read_newest_note(folder: str) -> dict[str, Any]:
    """Reads the note of the newest snapshot whose note is whole.

    Raises:
      SnapshotError: there is no snapshot, or no whole note.
    """
    problem = errors.SnapshotError(
        errors.describe(
            folder, "holds no snapshot to resume from", "a run that has taken one"
        )
    )
    for step in reversed(steps(folder)):
        try:
            return read_note(os.path.join(folder, str(step)))
        except BrokenSnapshotError as error:
            problem = error
    raise problem


def restore(
    path: str, like: TrainState, shardings: Any
) -> tuple[TrainState, dict[str, Any]]:
    """Reads one snapshot.

    Args:
      path: the folder of one snapshot, `.../snapshots/1000`.
      like: a state of the wanted shapes (arrays or ShapeDtypeStructs).
      shardings: where each leaf goes, one for all.

    Returns:
      The state on the devices, and the note: "positions", "seed", "environment".

    Raises:
      SnapshotError: no snapshot there, or broken, or of another net or solver.
    """
    with _reading(path) as (manager, step):
        held = _leaves(manager.item_metadata(step)["state"].tree)
        # The loss window may have another length; it is refitted by whoever asked.
        ring = jax.ShapeDtypeStruct(held.get("losses", ()), like.losses.dtype)
        wanted = {**like._asdict(), "losses": ring}
        _check_same_net(path, held, _leaves(wanted))
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=shardings), wanted
        )
        restored = manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract),
                note=ocp.args.JsonRestore(),
            ),
        )
    state = fit_window(TrainState(**restored["state"]), like.losses.shape[0])
    return state, restored["note"]


def restore_latest(
    folder: str, like: TrainState, shardings: Any
) -> tuple[TrainState, dict[str, Any], str]:
    """Reads the newest snapshot that is whole; broken ones are set aside.

    A broken folder is renamed to NAME.broken, so that the resumed run can write the
    same iteration again.

    Returns:
      What `restore` returns, and the path that was read.

    Raises:
      SnapshotError: no snapshot, none whole, or the newest whole one is of another
        net or cannot be read for a passing reason. Nothing is renamed then.
    """
    broken: list[tuple[str, BrokenSnapshotError]] = []
    for step in reversed(steps(folder)):
        path = os.path.join(folder, str(step))
        try:
            state, note = restore(path, like, shardings)
        except BrokenSnapshotError as error:
            broken.append((path, error))
            continue
        # Only now: had nothing been readable, the fault might not be the snapshots'.
        for bad, problem in broken:
            aside = _free_name(f"{bad}.broken")
            os.rename(bad, aside)
            logger.warning("%s Set aside as %s.", problem, aside)
        return state, note, path
    if broken:
        raise broken[0][1]
    raise errors.SnapshotError(
        errors.describe(
            folder, "holds no snapshot to resume from", "a run that has taken one"
        )
    )


def environment(devices: int) -> dict[str, Any]:
    """Returns what must be equal for a resumed run to be bit-identical.

    Args:
      devices: how many devices the run uses.
    """
    device = jax.devices()[0]
    packages = ("jax", "jaxlib", "flax", "grain", "numpy", "opencv-python-headless")
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "device": device.device_kind,
        "platform": device.platform,
        "devices": devices,
        "cpu_threads": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "matmul_precision": str(jax.config.values["jax_default_matmul_precision"]),
        "deterministic": DETERMINISTIC in os.environ.get("XLA_FLAGS", ""),
    }


def environment_changes(then: Mapping[str, Any], devices: int) -> list[str]:
    """Returns `name was X, is Y` for each circumstance that changed."""
    now = environment(devices)
    return [
        f"{name} was {then.get(name)}, is {value}"
        for name, value in now.items()
        if then.get(name) != value
    ]


@contextlib.contextmanager
def _reading(path: str) -> Iterator[tuple[ocp.CheckpointManager, int]]:
    """Opens one snapshot for reading; what fails inside becomes a SnapshotError."""
    folder, name = os.path.split(os.path.abspath(path))
    if not name.isdigit() or not os.path.isdir(path):
        raise errors.SnapshotError(
            errors.describe(
                path, "is not a snapshot", "a folder such as runs/NAME/snapshots/1000"
            )
        )
    manager = ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(read_only=True),
        item_handlers={
            "state": ocp.StandardCheckpointHandler(),
            "note": ocp.JsonCheckpointHandler(),
        },
    )
    try:
        yield manager, int(name)
    except errors.CaffeError:
        raise
    except Exception as error:
        kind = BrokenSnapshotError if _is_damage(error) else errors.SnapshotError
        raise kind(
            errors.describe(
                path,
                f"the snapshot cannot be read ({_first_line(error)})",
                "another snapshot of the run",
            )
        ) from error
    finally:
        manager.close()


def _is_damage(error: Exception) -> bool:
    """Tells files that are cut, missing or garbled from memory or disks that fail."""
    if any(code in str(error) for code in ("RESOURCE_EXHAUSTED", "UNAVAILABLE")):
        return False
    missing = (FileNotFoundError, NotADirectoryError)
    return isinstance(error, (*missing, ValueError, KeyError, AttributeError))


def _leaves(tree: Any) -> dict[str, tuple[int, ...]]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        "/".join(
            str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k))))
            for k in path
        ): tuple(leaf.shape)
        for path, leaf in flat
    }


def _check_same_net(
    path: str,
    held: Mapping[str, tuple[int, ...]],
    wanted: Mapping[str, tuple[int, ...]],
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
        more = f" and {len(found) - 6} more" if len(found) > 6 else ""
        raise errors.SnapshotError(
            errors.describe(
                path,
                f"belongs to another net or solver: {'; '.join(found[:6])}{more}",
                "a snapshot of this net and solver",
            )
        )


def _write_error(
    manager: ocp.CheckpointManager, error: Exception
) -> errors.SnapshotError:
    folder = os.fspath(manager.directory)
    for entry in os.listdir(folder):
        if entry.endswith(".orbax-checkpoint-tmp"):
            shutil.rmtree(os.path.join(folder, entry), ignore_errors=True)
    # TensorStore hides the reason at the end of a very long message.
    code = re.search(r"os_error_code='(\d+)'", str(error))
    reason = os.strerror(int(code.group(1))) if code else _first_line(error)
    return errors.SnapshotError(
        errors.describe(
            folder,
            f"a snapshot could not be written ({reason})",
            "a disk with room; snapshots written before are whole",
        )
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _free_name(path: str) -> str:
    name, count = path, 1
    while os.path.exists(name):
        count += 1
        name = f"{path}{count}"
    return name
