"""One quantity of one or several runs, as a line to draw.

Stands in for load_data of tools/extra/plot_training_log.py.example of Caffe.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxcaffe.curves.rows import Row


class Curve(NamedTuple):
    """One quantity of one label's runs, where all of them have it."""

    x: np.ndarray  # (K,) iterations, or seconds
    values: np.ndarray  # (runs, K) float
    broke: bool = False  # a run ended there, and others went on or it was not finite


def collect(runs: Sequence[Sequence[Row]], name: str) -> Curve:
    """Returns one quantity at the iterations where all runs have a finite value.

    Args:
      runs: the rows of each; of two rows for one iteration the later counts.
      name: a field of the rows, such as "loss".
    """
    # A net that broke still gets a test accuracy, beside a loss of NaN.
    kept = [[r for r in rows if all(map(math.isfinite, r.values()))] for rows in runs]
    series = [{row["iter"]: row[name] for row in rows if name in row} for rows in kept]
    shared = sorted(set.intersection(*(set(one) for one in series)))
    last = shared[-1] if shared else -1
    return Curve(
        x=np.array(shared, int),
        values=np.array([[one[i] for i in shared] for one in series], float),
        broke=any(max(one, default=-1) > last for one in series)
        or any(len(some) < len(rows) for some, rows in zip(kept, runs, strict=True)),
    )
