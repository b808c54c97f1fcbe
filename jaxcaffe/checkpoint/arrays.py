"""Writes the arrays of a snapshot for Orbax, at little cost to the run beside it.

TensorStore, which Orbax leaves this to by default, encodes a state in memory of its own
and hands all of it to the system at once; on a machine whose cores are all at work,
most of a snapshot's cost is the finding of that memory. Here each array goes to the
disk from where it lies, in pieces (see disk.write_pieces), and by one thread, of which
nothing is left when it fails. Files and layout are those of Orbax without OCDBT: an
array is a folder in the format of Zarr 2, one chunk, uncompressed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jaxcaffe.disk import write_pieces


def write_tree(folder: str, tree: Any) -> None:
    """Writes arrays, each of which lies on one device or the host, to a folder.

    Args:
      folder: it must be there, and be empty.
      tree: of dicts, tuples and arrays of any shape and dtype.

    Raises:
      OSError: the disk refuses.
    """
    registry = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, _ArrayWriter()),
        (jax.Array, ocp.type_handlers.ArrayHandler()),  # Orbax warns if there is none
    )
    handler = ocp.PyTreeCheckpointHandler(
        use_compression=False, use_ocdbt=False, type_handler_registry=registry
    )
    # As arrays of NumPy's they need no device to be read again.
    tree = jax.tree.map(np.asarray, tree)
    with contextlib.closing(handler):
        handler.save(epath.Path(folder), args=ocp.args.PyTreeSave(tree))


class _ArrayWriter(ocp.type_handlers.NumpyHandler):
    async def serialize(
        self, values: Sequence[Any], infos: Sequence[Any], args: Any = None
    ) -> list[Any]:
        """Returns once all is written, so that there is nothing to wait for."""
        for value, info in zip(values, infos, strict=True):
            await info.await_path_creation()
            _write(info.path, value)
        return []


def _write(folder: epath.Path, array: np.ndarray) -> None:
    """Writes an array; the format is https://zarr-specs.readthedocs.io, version 2."""
    folder.mkdir()
    about = {
        "zarr_format": 2,
        "shape": array.shape,
        "chunks": [max(size, 1) for size in array.shape],
        "dtype": array.dtype.str,
        "order": "C",
        "fill_value": None,
        "compressor": None,
        "filters": None,
        "dimension_separator": ".",
    }
    (folder / ".zarray").write_text(json.dumps(about))
    name = ".".join("0" * array.ndim) or "0"
    with open(folder / name, "wb") as file:
        write_pieces(file, [np.ravel(array).view(np.uint8).data])
