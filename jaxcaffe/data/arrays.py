"""Records that the program holds in memory already.

Follows caffe/src/caffe/layers/memory_data_layer.cpp.
"""

from __future__ import annotations

import numpy as np

from jaxcaffe.errors import DataError, describe


class ArraySource:
    """Random access to the rows of arrays.

    `source[i]` is {"data": data[i], "label": labels[i]}.

    Args:
      data: (N, C, H, W) float32 values that are ready for the net, or uint8 images that
        transform_param still applies to.
      labels: (N,) or (N, 1, 1, 1) numbers; they become float32.
      where: what to call these arrays in messages.

    Raises:
      DataError: another dtype or number of axes, or row counts that differ.

    Source: caffe/src/caffe/layers/memory_data_layer.cpp Reset, AddMatVector and
    caffe/python/caffe/_caffe.cpp Net_SetInputArrays. Differs: the dtype tells Reset
    (float32) from AddMatVector (uint8).
    """

    groups: tuple[int, ...] | None = None

    def __init__(
        self, data: np.ndarray, labels: np.ndarray, where: str = "arrays"
    ) -> None:
        data, labels = np.asarray(data), np.asarray(labels)
        if data.dtype not in (np.dtype(np.float32), np.dtype(np.uint8)):
            raise DataError(
                describe(where, f"data is {data.dtype}", "float32, or uint8 images")
            )
        if data.ndim != 4:
            raise DataError(
                describe(where, f"data has shape {data.shape}", "four axes (N,C,H,W)")
            )
        if labels.dtype.kind not in "iuf":
            raise DataError(describe(where, f"labels are {labels.dtype}", "numbers"))
        if labels.shape not in ((len(data),), (len(data), 1, 1, 1)):
            raise DataError(
                describe(
                    where,
                    f"labels have shape {labels.shape} beside {len(data)} rows of data",
                    f"({len(data)},)",
                )
            )
        if not len(data):
            raise DataError(describe(where, "data has no row"))
        self._where = where
        self._data = data
        # Caffe's label blob has four axes here and nowhere else.
        self._labels = labels.astype(np.float32).reshape(-1, 1, 1, 1)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Returns {"data": (C, H, W) float32 or uint8, "label": (1, 1, 1) float32}."""
        return {"data": self._data[index], "label": self._labels[index]}

    def key(self, index: int) -> str:
        """Returns the row's number, for messages."""
        return f"row {index}"

    def __repr__(self) -> str:
        return f"{self._where} ({len(self)} records)"
