"""Arrays of any length through a net of one batch size.

Follows the helpers of caffe/python/caffe/pycaffe.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from jaxcaffe.pycaffe.blob import Blob


def write_data(
    blobs: Mapping[str, Blob], given: Mapping[str, np.ndarray], inputs: list[str]
) -> None:
    """Writes values into all of a net's inputs, or none.

    Raises:
      Exception: other names than `inputs`; another batch size than the net's.
    """
    _check_names(given, inputs, "Input blob", "net inputs")
    for name, value in given.items():
        _check_rows(name, value, blobs[name], "Input")
        blobs[name].data[...] = value


def write_diffs(
    blobs: Mapping[str, Blob], given: Mapping[str, np.ndarray], outputs: list[str]
) -> None:
    """Writes diffs into all of a net's outputs, or none.

    Raises:
      Exception: other names than `outputs`; another batch size than the net's.
    """
    _check_names(given, outputs, "Top diff", "net outputs")
    for name, value in given.items():
        _check_rows(name, value, blobs[name], "Diff")
        blobs[name].diff[...] = value


def cut_batches(
    arrays: Mapping[str, Sequence[np.ndarray] | np.ndarray], size: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yields `size` rows of each array at a time, the last ones padded with zeros."""
    if not arrays:
        return
    count = len(next(iter(arrays.values())))
    for begin in range(0, count, size):
        batch = {}
        for name, rows in arrays.items():
            part = np.asarray(rows[begin : begin + size])
            if len(part) < size:
                padding = np.zeros((size - len(part), *part.shape[1:]))
                part = np.concatenate([part, padding])
            batch[name] = part
        yield batch


def join_batches(
    parts: Mapping[str, list[np.ndarray]], count: int
) -> dict[str, np.ndarray]:
    """Returns the first `count` rows of what batches gave."""
    return {
        name: np.concatenate([np.atleast_1d(part) for part in found])[:count]
        for name, found in parts.items()
    }


def _check_names(
    given: Mapping[str, np.ndarray], names: list[str], subject: str, kind: str
) -> None:
    if given and set(given) != set(names):
        raise Exception(
            f"{subject} arguments do not match {kind}: {', '.join(sorted(given))} "
            f"for {', '.join(names) or 'none'}."
        )


def _check_rows(name: str, value: np.ndarray, blob: Blob, what: str) -> None:
    if value.shape[0] != blob.shape[0]:
        raise Exception(
            f"{what} is not batch sized: {name} has {value.shape[0]} rows, the "
            f"net {blob.shape[0]}."
        )
