"""What fills the tops of a net's data layers when its forward pass reaches them.

Follows caffe/src/caffe/layers/base_data_layer.cpp and memory_data_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxcaffe.augment import make_augment
from jaxcaffe.data import pipeline
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Blobs, Graph, Node, Structs

Next = Callable[[], Blobs]
"""Gives a data layer's next tops, float32."""


class RecordFeed:
    """A data layer that reads records: database, list of images, HDF5 or windows.

    Args:
      node: the layer.
      phase: caffe_pb2.TRAIN or caffe_pb2.TEST.
      seed: of crops, mirrors and shuffles.

    Attributes:
      structs: top -> shape and dtype of the first batch.

    Raises:
      CaffeError: whatever the layer or its records say that cannot be.
    """

    def __init__(self, node: Node, phase: int, seed: int) -> None:
        options = pipeline.FeedOptions(seed=seed)
        feed = pipeline.open_feed(node.layer, phase, options, node.where)
        augment = make_augment([node.layer], feed.structs, phase, [node.where])
        raw = {top: jax.ShapeDtypeStruct(*s) for top, s in feed.structs.items()}
        key = jax.random.key(seed)
        self.structs: Structs = jax.eval_shape(augment, raw, key)
        self._reader = pipeline.FeedReader([feed], options)
        self._augment = jax.jit(augment)
        self._key = key
        self._count = 0

    def __call__(self) -> Blobs:
        """Returns the next batch."""
        key = jax.random.fold_in(self._key, self._count)
        self._count += 1
        return self._augment(next(self._reader), key)

    def close(self) -> None:
        """Ends the threads that read ahead."""
        self._reader.close()


class MemoryFeed:
    """A MemoryData layer, whose arrays the caller sets.

    Args:
      node: the layer.

    Attributes:
      structs: top -> shape and dtype before the first batch; then labels are
        (batch_size, 1, 1, 1), as in Caffe.
      shape: (batch_size, C, H, W).

    Source: caffe/src/caffe/layers/memory_data_layer.cpp. Differs: none.
    """

    def __init__(self, node: Node) -> None:
        param = node.layer.memory_data_param
        self.shape = (param.batch_size, param.channels, param.height, param.width)
        self._tops = node.tops
        self._name = node.layer.name
        self._position = 0
        self._data: np.ndarray | None = None
        self._labels: np.ndarray | None = None
        self.structs: Structs = {
            node.tops[0]: jax.ShapeDtypeStruct(self.shape, jnp.float32),
            node.tops[1]: jax.ShapeDtypeStruct(self.shape[:1], jnp.float32),
        }

    def set_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Takes the records to go through, from the first one on.

        Args:
          data: (N, C, H, W) float32 in C order, N a multiple of batch_size; read, not
            copied, when its turn comes.
          labels: (N, 1, 1, 1) float32 in C order.

        Raises:
          RuntimeError: an array of another shape, dtype or order.
        """
        _check_array("data array", data, self.shape[1:])
        _check_array("labels array", labels, (1, 1, 1))
        if len(data) != len(labels):
            raise RuntimeError("data and labels must have the same first dimension")
        if len(data) % self.shape[0]:
            raise RuntimeError(
                "first dimensions of input arrays must be a multiple of batch size, "
                f"{self.shape[0]}"
            )
        self._data, self._labels = data, labels
        self._position = 0

    def __call__(self) -> Blobs:
        """Returns the next batch; after the last record comes the first."""
        if self._data is None or self._labels is None:
            raise RuntimeError(
                f'layer "{self._name}" (MemoryData) has no records: call '
                "net.set_input_arrays(data, labels) first"
            )
        rows = slice(self._position, self._position + self.shape[0])
        self._position = rows.stop % len(self._data)
        data = jnp.array(self._data[rows], copy=True)
        labels = jnp.array(self._labels[rows], copy=True)
        return dict(zip(self._tops, (data, labels), strict=True))

    def close(self) -> None:
        """Nothing runs behind this feed."""


def open_feeds(graph: Graph, seed: int) -> dict[int, RecordFeed | MemoryFeed]:
    """Opens the data layers of a net.

    Returns:
      Index of the node -> its feed; Input layers have none.

    Raises:
      CaffeError: whatever a layer or its records say that cannot be.
    """
    feeds: dict[int, RecordFeed | MemoryFeed] = {}
    for index, node in enumerate(graph.nodes):
        if node.layer.type == "MemoryData":
            feeds[index] = MemoryFeed(node)
        elif node.layer.type in pipeline.FEED_PARAMS:
            feeds[index] = RecordFeed(node, graph.phase, seed + index)
    return feeds


def is_constant(node: Node, top: int) -> bool:
    """Returns whether a DummyData layer fills a top once, when the net is made.

    Source: caffe/src/caffe/layers/dummy_data_layer.cpp, LayerSetUp.
    """
    if node.layer.type != "DummyData":
        return False
    fillers = node.layer.dummy_data_param.data_filler
    if not fillers:
        return True
    filler: caffe_pb2.FillerParameter = fillers[top if len(fillers) > 1 else 0]
    return filler.type == "constant"


def _check_array(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if not array.flags.c_contiguous:
        raise RuntimeError(f"{name} must be C contiguous")
    if array.ndim != 4:
        raise RuntimeError(f"{name} must be 4-d")
    if array.dtype != np.float32:
        raise RuntimeError(f"{name} must be float32")
    for axis, wanted, got in zip(
        ("number of channels", "height", "width"), shape, array.shape[1:], strict=True
    ):
        if wanted != got:
            raise RuntimeError(f"{name} has wrong {axis}: {got}, not {wanted}")
