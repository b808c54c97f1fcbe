"""Files of features: databases of Datums with floats, or HDF5.

Follows tools/extract_features.cpp of Caffe.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import h5py
import numpy as np

from jaxcaffe.data.database import BACKENDS, check_new, create_database
from jaxcaffe.data.datum import write_datum
from jaxcaffe.errors import ConfigError, describe

KINDS = (*BACKENDS, "hdf5")

Write = Callable[[np.ndarray], None]
"""write(batch) appends a batch of features, (N, ...) float32."""

_AXES = 4  # that a Datum and its number can hold


def create_features(path: str, kind: str, blob: str) -> AbstractContextManager[Write]:
    """Makes a new file or database of features, which appears when the block ends well.

    A database holds one Datum for each row, with channels, height and width of the
    blob, 1 for axes that it lacks, values in float_data, no label; keys are indices in
    ten digits. An HDF5 file holds one data set, named as the blob, of its shape with
    all rows, float32.

    Args:
      path: what to make; must not exist.
      kind: one of KINDS.
      blob: name of the blob.

    Yields:
      A function that appends a batch.

    Raises:
      ConfigError: the path exists, cannot be written or has no folder; plyvel is
        missing.

    Source: caffe/tools/extract_features.cpp. Differs: Caffe has no HDF5 here, though
    its HDF5Data layers read this file.
    """
    check_new(path)
    return _hdf5(path, blob) if kind == "hdf5" else _database(path, kind)


def datum_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Returns channels, height and width of one row of a blob.

    Args:
      shape: of the blob, with the number of rows in front; at most four axes.

    Source: caffe/include/caffe/blob.hpp, LegacyShape. Differs: none.
    """
    channels, height, width = (*shape[1:], 1, 1, 1)[:3]
    return channels, height, width


def check_shape(blob: str, shape: tuple[int, ...], kind: str) -> None:
    """Raises ConfigError for a blob that files of a kind cannot hold."""
    if kind != "hdf5" and len(shape) > _AXES:
        problem = f'blob "{blob}" has {len(shape)} axes, {shape}'
        accepted = f"{_AXES} axes at most in a Datum, or hdf5"
        raise ConfigError(describe("extract_features", problem, accepted))


@contextmanager
def _database(path: str, backend: str) -> Iterator[Write]:
    count = 0
    with create_database(path, backend) as put:

        def write(batch: np.ndarray) -> None:
            nonlocal count
            for row in batch.reshape(-1, *datum_shape(batch.shape)):
                put(b"%010d" % count, write_datum(row))
                count += 1

        yield write


@contextmanager
def _hdf5(path: str, blob: str) -> Iterator[Write]:
    partial = f"{path}.partial-{secrets.token_hex(4)}"
    try:
        with h5py.File(partial, "x") as file:

            def write(batch: np.ndarray) -> None:
                rows = np.atleast_1d(batch)
                if blob not in file:
                    file.create_dataset(
                        blob, data=rows, maxshape=(None, *rows.shape[1:])
                    )
                    return
                held = file[blob]
                held.resize(len(held) + len(rows), axis=0)
                held[-len(rows) :] = rows

            yield write
        check_new(path)
        os.replace(partial, path)
    except OSError as error:
        raise ConfigError(
            describe(path, f"cannot be written: {error.strerror or error}")
        ) from None
    finally:
        if os.path.lexists(partial):
            os.unlink(partial)
