"""The state of Caffe's solvers: iteration, history, and which weights belong to it.

Follows caffe/src/caffe/solvers/sgd_solver.cpp, SnapshotSolverState and
RestoreSolverState, and the constructors of adadelta_solver.cpp and adam_solver.cpp.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcaffe.caffe_files import hdf5
from jaxcaffe.caffe_files.caffemodel import encode_blob, write_chunks
from jaxcaffe.errors import CaffeError, SnapshotError, describe
from jaxcaffe.net.params import is_owner
from jaxcaffe.net.weights import shape_equals
from jaxcaffe.proto import binary, caffe_pb2
from jaxcaffe.proto.wire import Chunk, encode_field, encode_varint_field
from jaxcaffe.spec import Net, Params

_FIELDS = caffe_pb2.SolverState.DESCRIPTOR.fields_by_name


class SolverState(NamedTuple):
    """What a .solverstate holds."""

    iter: int  # updates done
    learned_net: str  # path of the weights; "" if it names none
    current_step: int  # how often "step" or "multistep" had lowered the rate
    history: tuple[np.ndarray, ...]  # float32; see `export_history`


def read_solver_state(path: str | os.PathLike[str]) -> SolverState:
    """Reads a .solverstate or a .solverstate.h5, told apart by their first bytes.

    Raises:
      SnapshotError: the file is missing, empty, cut short, of another kind, or weights
        without a state.

    Source: caffe/src/caffe/solver.cpp, Restore. Differs: Caffe goes by the name's end.
    """
    name = os.fspath(path)
    if os.path.isfile(path) and binary.is_hdf5(path):
        state = SolverState(**hdf5.read_state(path))
        state = state._replace(history=tuple(state.history))
    else:
        try:
            message = binary.read_message(path, caffe_pb2.SolverState())
        except SnapshotError:
            _refuse_weights(name)
            raise
        if not message.HasField("iter"):
            _refuse_weights(name)
            problem = "names no iteration, so it is no solver's state"
            raise SnapshotError(describe(name, problem, "a .solverstate"))
        state = SolverState(
            iter=message.iter,
            learned_net=message.learned_net,
            current_step=message.current_step,
            history=tuple(
                binary.blob_to_array(blob, f"{name}: history blob {index}")
                for index, blob in enumerate(message.history)
            ),
        )
    if state.iter < 0 or state.current_step < 0:
        problem = f"iter is {state.iter} and current_step {state.current_step}"
        raise SnapshotError(describe(name, problem, "numbers of at least 0"))
    return state


def write_solver_state(path: str | os.PathLike[str], state: SolverState) -> None:
    """Writes a solver's state, in HDF5 where the name ends in .h5.

    It is written whole or not at all; an older file gives way.

    Raises:
      SnapshotError: the file cannot be written, or is binary and would be over 2 GiB.

    Source: caffe/src/caffe/solvers/sgd_solver.cpp, SnapshotSolverStateToBinaryProto
    and SnapshotSolverStateToHDF5. Differs: none.
    """
    if os.fspath(path).endswith(".h5"):
        hdf5.write_state(
            path, state.iter, state.learned_net, state.current_step, state.history
        )
        return
    chunks: list[Chunk] = [encode_varint_field(_FIELDS["iter"].number, state.iter)]
    chunks += encode_field(
        _FIELDS["learned_net"].number, [os.fsencode(state.learned_net)]
    )
    for blob in state.history:
        chunks += encode_field(_FIELDS["history"].number, encode_blob(blob))
    step = _FIELDS["current_step"].number
    chunks.append(encode_varint_field(step, state.current_step))
    write_chunks(path, chunks)


def export_history(net: Net, history: Any) -> tuple[np.ndarray, ...]:
    """Returns the history of an update rule in the order of Caffe's solver.

    One array for each learned blob that a layer owns, frozen ones too, and zeros for
    each of BatchNorm's statistics, in the order of the net; where the rule keeps two
    arrays for each (AdaDelta, Adam), all the first ones, then all the second.

    Args:
      net: the TRAIN net.
      history: tree like Params; at each leaf a float32 array or a tuple of them.

    Source: caffe/src/caffe/solvers/sgd_solver.cpp, PreSolve; adadelta_solver.cpp and
    adam_solver.cpp. Differs: where statistics have a decay, Caffe's adaptive rules add
    it up in their history, of which nothing comes.
    """
    sets = _count_sets(net, history)
    exported = []
    for index in range(sets):
        for info in filter(is_owner, net.params):
            if info.is_stat:
                exported.append(np.zeros(info.shape, np.float32))
                continue
            leaf = history[info.layer][info.blob]
            array = leaf[index] if isinstance(leaf, tuple) else leaf
            exported.append(np.asarray(array, np.float32).reshape(info.shape))
    return tuple(exported)


def import_history(
    net: Net,
    like: Any,
    blobs: Sequence[np.ndarray],
    solver_type: str,
    where: str,
) -> Any:
    """Returns Caffe's history as the tree that an update rule keeps.

    Args:
      net: the TRAIN net.
      like: the rule's history at the start, a tree like Params.
      blobs: as `export_history` gives them.
      solver_type: for errors.
      where: the file's path, for errors.

    Raises:
      SnapshotError: more or fewer arrays than the rule needs, or of other shapes.

    Source: caffe/src/caffe/solvers/sgd_solver.cpp, RestoreSolverState. Differs: Caffe
    does not look at the shapes in a binary file.
    """
    owners = [info for info in net.params if is_owner(info)]
    sets = _count_sets(net, like)
    if len(blobs) != sets * len(owners):
        each = "one" if sets == 1 else "two"
        raise SnapshotError(
            describe(
                where,
                f"holds {len(blobs)} history blobs, but solver type "
                f'"{solver_type}" keeps {each} for each of the {len(owners)} blobs of '
                f"the net, {sets * len(owners)}",
                "the state of a run with this net and solver type",
            )
        )
    trees = []
    for start in range(0, len(blobs), max(len(owners), 1)):
        tree: dict[str, dict[str, np.ndarray]] = {name: {} for name in like}
        for offset, info in enumerate(owners):
            blob = blobs[start + offset]
            if not shape_equals(blob.shape, info.shape):
                raise SnapshotError(
                    describe(
                        where,
                        f"history blob {start + offset} has shape {blob.shape}, but "
                        f'blob "{info.blob}" of layer "{info.layer}" has {info.shape}',
                        "the state of a run with this net",
                    )
                )
            if not info.is_stat:
                shape = _first(like[info.layer][info.blob]).shape
                tree[info.layer][info.blob] = np.reshape(blob, shape)
        trees.append(tree)
    return {
        layer: {
            blob: tuple(tree[layer][blob] for tree in trees)
            if isinstance(leaf, tuple)
            else trees[0][layer][blob]
            for blob, leaf in leaves.items()
        }
        for layer, leaves in like.items()
    }


def _count_sets(net: Net, history: Params | Any) -> int:
    for info in net.params:
        if is_owner(info) and not info.is_stat:
            leaf = history[info.layer][info.blob]
            return len(leaf) if isinstance(leaf, tuple) else 1
    return 1


def _first(leaf: Any) -> jax.Array:
    return leaf[0] if isinstance(leaf, tuple) else leaf


def _refuse_weights(path: str) -> None:
    """Says so if a file that is no solver's state is a net with weights."""
    try:
        binary.read_caffemodel(path)
    except CaffeError:
        return
    raise SnapshotError(hdf5.describe_weights(path))
