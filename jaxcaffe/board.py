"""Curves and the first layer's filters for TensorBoard.

Caffe has nothing of the kind. The package tensorboardX writes the files; neither
TensorFlow nor TensorBoard is needed to write them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np

from jaxcaffe import errors, log
from jaxcaffe.filter_grid import tile_filters
from jaxcaffe.log import logger
from jaxcaffe.spec import Net, Params

_TAG = "filters"
_SCALE = 8  # pixels, the side of the square that shows one weight


class Board(NamedTuple):
    """Writes what TensorBoard shows. A full disk costs the run no more than this."""

    write: Callable[..., None]
    """(iteration, **name -> value): as Scalars.write."""

    draw: Callable[[int, Params], None]
    """(iteration, weights): the filters of the first Convolution layer, if any."""

    close: Callable[[], None]


def open_board(folder: str, net: Net, first: int) -> Board:
    """Opens a file of events in a folder.

    What an earlier run left there from iteration `first` on, TensorBoard shows no more.

    Args:
      folder: made if it is not there.
      net: the TRAIN net.
      first: iteration at which the run starts.

    Raises:
      ConfigError: tensorboardX is not installed.
      SnapshotError: nothing can be written there.
    """
    try:
        from tensorboardX import event_file_writer
        from tensorboardX.proto import event_pb2, summary_pb2
    except ImportError:
        raise errors.ConfigError(
            errors.describe(
                "config.tensorboard",
                "is true, and the package tensorboardX is not installed",
                "pip install 'jaxcaffe[tensorboard]', or config.tensorboard = False",
            )
        ) from None

    layer = _first_convolution(net)
    failed = False

    def add(iteration: int, **content: Any) -> None:
        nonlocal failed
        if failed:
            return
        event = event_pb2.Event(step=iteration, wall_time=time.time(), **content)
        try:
            writer.write_event(event)
            writer.flush()
        except OSError as error:
            failed = True
            logger.error("%s The run goes on without them.", _failure(folder, error))

    def write(iteration: int, **scalars: log.Scalar) -> None:
        values = [
            summary_pb2.Summary.Value(tag=tag, simple_value=value)
            for name, scalar in scalars.items()
            for tag, value in _flat(name, scalar)
        ]
        add(iteration, summary=summary_pb2.Summary(value=values))

    def draw(iteration: int, params: Params) -> None:
        if layer is None:
            return
        tiles = tile_filters(jax.device_get(params[layer]["weight"]))
        tiles = tiles.repeat(_SCALE, axis=0).repeat(_SCALE, axis=1)
        # OpenCV takes blue first.
        _, encoded = cv2.imencode(".png", tiles[..., ::-1])
        image = summary_pb2.Summary.Image(
            height=tiles.shape[0],
            width=tiles.shape[1],
            colorspace=tiles.shape[2],
            encoded_image_string=encoded.tobytes(),
        )
        value = summary_pb2.Summary.Value(tag=f"{_TAG}/{layer}", image=image)
        add(iteration, summary=summary_pb2.Summary(value=[value]))

    def close() -> None:
        try:
            writer.close()
        except OSError as error:
            if not failed:
                logger.error("%s", _failure(folder, error))

    try:
        os.makedirs(folder, exist_ok=True)
        writer = event_file_writer.EventsWriter(os.path.join(folder, "events"))
    except OSError as error:
        raise _failure(folder, error) from error
    started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    add(first, session_log=started)
    return Board(write, draw, close)


def join_scalars(scalars: log.Scalars, board: Board) -> log.Scalars:
    """Returns curves that go to both."""

    def write(iteration: int, **values: log.Scalar) -> None:
        scalars.write(iteration, **values)
        board.write(iteration, **values)

    return scalars._replace(write=write)


def _failure(folder: str, error: OSError) -> errors.SnapshotError:
    problem = f"curves for TensorBoard cannot be written ({error.strerror})"
    return errors.SnapshotError(errors.describe(folder, problem, "a disk with room"))


def _flat(name: str, scalar: log.Scalar) -> list[tuple[str, float]]:
    values = np.ravel(scalar).tolist()
    if len(values) == 1:
        return [(name, values[0])]
    return [(f"{name}/{index}", value) for index, value in enumerate(values)]


def _first_convolution(net: Net) -> str | None:
    """Returns the layer with the first weights of a Convolution, if there is one."""
    layers = {node.key for node in net.graph.nodes if node.layer.type == "Convolution"}
    for info in net.params:
        if info.layer in layers and info.blob == "weight":
            return info.layer
    return None
