"""Weights and solver states in HDF5, as Caffe lays them out.

Follows caffe/src/caffe/net.cpp (ToHDF5, CopyTrainedLayersFromHDF5),
caffe/src/caffe/solvers/sgd_solver.cpp and caffe/src/caffe/util/hdf5.cpp.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import h5py
import numpy as np

from jaxcaffe.disk import write_pieces
from jaxcaffe.errors import SnapshotError, describe
from jaxcaffe.proto.files import read_bytes, write_atomically

Blobs = Mapping[str, Sequence[np.ndarray | None]]
"""Layer name -> float32 arrays in Caffe's order; None where another layer's holds."""

_STATE = ("iter", "current_step", "history")


def read_weights(path: str | os.PathLike[str]) -> dict[str, list[np.ndarray | None]]:
    """Reads the weights of a .caffemodel.h5.

    Args:
      path: a file with a group `data`, in it a group for each layer, in it a dataset
        for each blob, named by its number.

    Returns:
      Layer name -> float32 arrays, None for a number that is left out because another
      layer owns the blob; layers without blobs have an empty list. In HDF5's own
      order, by name.

    Raises:
      SnapshotError: the file is missing, broken, or holds no weights.

    Source: caffe/src/caffe/net.cpp, CopyTrainedLayersFromHDF5. Differs: finds layers
    whose names hold a slash, which Caffe cannot write.
    """
    name = os.fspath(path)
    with _open(path) as file:
        if not isinstance(file.get("data"), h5py.Group):
            if is_state(file):
                problem = "holds a solver's state, not weights"
                raise SnapshotError(
                    describe(name, problem, "the .caffemodel.h5 that belongs to it")
                )
            problem = 'has no group "data", so it holds no weights'
            raise SnapshotError(describe(name, problem, "a .caffemodel.h5"))
        weights: dict[str, list[np.ndarray | None]] = {}
        _collect(file["data"], "", weights, name)
    return weights


def write_weights(
    path: str | os.PathLike[str], layers: Sequence[str], blobs: Blobs, diffs: Blobs
) -> None:
    """Writes a .caffemodel.h5, whole or not at all; an older file gives way.

    Args:
      path: of the file.
      layers: names of all layers of the net, those without blobs too.
      blobs: None for those that another layer owns.
      diffs: gradients, of shared blobs in every sharer; empty to write none.

    Raises:
      SnapshotError: the file cannot be written, or a layer's name does not do.

    Source: caffe/src/caffe/net.cpp, ToHDF5. Differs: a slash in a layer's name makes a
    group in a group, where Caffe fails.
    """

    def fill(file: h5py.File) -> None:
        for group_name, source in (("data", blobs), ("diff", diffs)):
            if group_name == "diff" and not diffs:
                continue
            group = file.create_group(group_name)
            for layer in layers:
                ours = group.require_group(layer)
                for number, blob in enumerate(source.get(layer, ())):
                    if blob is not None:
                        ours.create_dataset(str(number), data=blob, dtype="<f4")

    _write(path, fill)


def read_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a .solverstate.h5.

    Returns:
      "iter" and "current_step" (int), "learned_net" (str, empty if there is none) and
      "history" (list of float32 arrays).

    Raises:
      SnapshotError: the file is missing, broken, or holds no solver's state.

    Source: caffe/src/caffe/solvers/sgd_solver.cpp, RestoreSolverStateFromHDF5.
    Differs: none.
    """
    name = os.fspath(path)
    with _open(path) as file:
        if not is_state(file):
            if "data" in file:
                raise SnapshotError(describe_weights(name))
            problem = f"lacks one of {', '.join(_STATE)}, so it is no solver's state"
            raise SnapshotError(describe(name, problem, "a .solverstate.h5"))
        history = file["history"]
        learned_net = file["learned_net"][()] if "learned_net" in file else b""
        return {
            "iter": int(np.ravel(file["iter"][()])[0]),
            "current_step": int(np.ravel(file["current_step"][()])[0]),
            "learned_net": os.fsdecode(learned_net),
            "history": [
                _to_array(history[str(number)], name)
                for number in _count_up(history, name)
            ],
        }


def write_state(
    path: str | os.PathLike[str],
    iteration: int,
    learned_net: str,
    current_step: int,
    history: Sequence[np.ndarray],
) -> None:
    """Writes a .solverstate.h5, whole or not at all; an older file gives way.

    Args:
      path: of the file.
      iteration: updates done.
      learned_net: path of the weights.
      current_step: of the learning rate's steps.
      history: float32 arrays in Caffe's order.

    Raises:
      SnapshotError: the file cannot be written.

    Source: caffe/src/caffe/solvers/sgd_solver.cpp, SnapshotSolverStateToHDF5. Differs:
    none.
    """

    def fill(file: h5py.File) -> None:
        file.create_dataset("iter", data=[iteration], dtype="<i4")
        _write_string(file, "learned_net", os.fsencode(learned_net))
        file.create_dataset("current_step", data=[current_step], dtype="<i4")
        group = file.create_group("history")
        for number, blob in enumerate(history):
            group.create_dataset(str(number), data=blob, dtype="<f4")

    _write(path, fill)


def is_state(file: h5py.File) -> bool:
    """Returns whether an open file is laid out as a solver's state."""
    return all(name in file for name in _STATE)


def describe_weights(path: str) -> str:
    """Returns the message for weights where a solver's state is needed."""
    stem = path.removesuffix(".h5").removesuffix(".caffemodel")
    states = [stem + end for end in (".solverstate", ".solverstate.h5")]
    beside = [state for state in states if os.path.exists(state)]
    return describe(
        path,
        "holds weights alone, without the iteration and the history to go on from",
        f"{beside[0] if beside else 'a .solverstate'}; or --weights={path} to start at "
        "iteration 0 from these weights",
    )


def _collect(
    group: h5py.Group,
    layer: str,
    weights: dict[str, list[np.ndarray | None]],
    path: str,
) -> None:
    """Adds the blobs of a layer's group, and of the groups in it."""
    numbers = [
        int(key)
        for key in group
        if key.isdigit() and isinstance(group[key], h5py.Dataset)
    ]
    inner = [key for key in group if isinstance(group[key], h5py.Group)]
    if layer and (numbers or not inner):
        blobs: list[np.ndarray | None] = [None] * (max(numbers, default=-1) + 1)
        for number in numbers:
            blobs[number] = _to_array(group[str(number)], path)
        weights[layer] = blobs
    for key in inner:
        _collect(group[key], f"{layer}/{key}" if layer else key, weights, path)


def _count_up(group: h5py.Group, path: str) -> range:
    numbers = range(len(group))
    if any(str(number) not in group for number in numbers):
        problem = f"its history is not numbered from 0 to {len(group) - 1}"
        raise SnapshotError(describe(path, problem, "a whole .solverstate.h5"))
    return numbers


def _to_array(dataset: h5py.Dataset, path: str) -> np.ndarray:
    if dataset.dtype.kind not in "fiu":
        raise SnapshotError(
            describe(path, f'"{dataset.name}" holds {dataset.dtype}', "numbers")
        )
    return np.asarray(dataset[()], np.float32)


def _write_string(file: h5py.File, name: str, value: bytes) -> None:
    """Writes text of fixed length with a zero at its end, all that Caffe can read."""
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(len(value) + 1)
    kind.set_strpad(h5py.h5t.STR_NULLTERM)
    space = h5py.h5s.create(h5py.h5s.SCALAR)
    dataset = h5py.h5d.create(file.id, name.encode(), kind, space)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array(value + b"\0"), kind)


@contextlib.contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    name = os.fspath(path)
    data = read_bytes(path, SnapshotError)
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            yield file
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SnapshotError(
            describe(name, f"the file is cut short or broken ({reason})", "HDF5")
        ) from None


def _write(path: str | os.PathLike[str], fill: Any) -> None:
    # In memory first: so nobody sees half a file, and a full disk is one clear error.
    buffer = io.BytesIO()
    try:
        with h5py.File(buffer, "w") as file:
            fill(file)
    except (ValueError, TypeError) as error:
        raise SnapshotError(
            describe(os.fspath(path), f"cannot be laid out in HDF5 ({error})")
        ) from None
    write_atomically(
        path, lambda out: write_pieces(out, [buffer.getbuffer()]), SnapshotError
    )
