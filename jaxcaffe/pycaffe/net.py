"""pycaffe's Net: a net whose blobs, parameters and gradients lie open.

Follows caffe/python/caffe/pycaffe.py and the Net of caffe/python/caffe/_caffe.cpp.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxcaffe import errors
from jaxcaffe.proto import caffe_pb2, text, upgrade
from jaxcaffe.pycaffe import backward, batches, forward, memory, saving, shaping
from jaxcaffe.pycaffe.arguments import parse_arguments
from jaxcaffe.pycaffe.described import Described
from jaxcaffe.pycaffe.feeds import MemoryFeed, RecordFeed
from jaxcaffe.pycaffe.opening import open_state
from jaxcaffe.pycaffe.saving import check_file
from jaxcaffe.pycaffe.state import Callback, State


class Net(Described):
    """A net whose blobs can be read, written and run layer by layer.

    Args:
      network_file: path of a net prototxt.
      phase: caffe.TRAIN or caffe.TEST.
      level: of the NetState.
      stages: of the NetState.
      weights: .caffemodel or .h5 file to copy weights from, by layer name.

    The older form Net(network_file, weights, phase) works too.

    Raises:
      RuntimeError: a file cannot be opened.
      CaffeError: the net, its data or its weights cannot be used; says where and why.

    Source: caffe/python/caffe/pycaffe.py. Differs: a net is compiled once for each set
    of input shapes; what nobody reads is neither computed nor copied; gradients are
    taken at a layer's bottoms, which matters where its top has been written to.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        network_file, net_state, pretrained = parse_arguments(args, kwargs)
        check_file(network_file)
        param, source = text.read_net(network_file)
        self._open(upgrade.upgrade_net(param, source), net_state, source)
        if pretrained is not None:
            self.copy_from(pretrained)

    @classmethod
    def from_param(
        cls,
        param: caffe_pb2.NetParameter,
        net_state: caffe_pb2.NetState,
        source: text.Source | None = None,
    ) -> Net:
        """Makes a net from an upgraded NetParameter, as a solver does."""
        net = cls.__new__(cls)
        net._open(param, net_state, source)
        return net

    def _open(
        self,
        param: caffe_pb2.NetParameter,
        net_state: caffe_pb2.NetState,
        source: text.Source | None,
    ) -> None:
        self.state: State = open_state(param, net_state, source)
        # Not __del__: at the end of the program that finds half of Python gone.
        self._closer = weakref.finalize(self, _close_feeds, self.state.feeds)

    # Running it.

    def forward(
        self,
        blobs: Sequence[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **kwargs: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Runs layers in file order.

        Args:
          blobs: further blobs to return.
          start: name of the first layer to run; None for the first of all.
          end: name of the last one; None for the last of all.
          **kwargs: input blob -> values, for all inputs or none.

        Returns:
          Blob -> its `data`: the net's outputs, or the tops of `end`, and `blobs`.

        Raises:
          Exception: kwargs do not name the inputs, or have another batch size.
        Source: caffe/python/caffe/pycaffe.py, _Net_forward. Differs: none.
        """
        first = self._layer_index(start) if start is not None else 0
        last = self._layer_index(end) if end is not None else len(self.layers) - 1
        if kwargs:
            batches.write_data(self.blobs, kwargs, self.inputs)
        self.run_forward(first, last)
        names = self.top_names[end] if end is not None else self.outputs
        return {name: self.blobs[name].data for name in {*names, *(blobs or ())}}

    def backward(
        self,
        diffs: Sequence[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **kwargs: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Runs layers backward, from the diffs that tops have.

        Gradients of parameters are added to what their diffs hold.

        Args:
          diffs: further blobs whose diff is returned.
          start: name of the layer to begin at; None for the last of all.
          end: name of the layer to finish with; None for the first of all.
          **kwargs: output blob -> its diff, for all outputs or none.

        Returns:
          Blob -> its `diff`: the net's inputs, or the bottoms of `end`, and `diffs`.

        Raises:
          Exception: kwargs do not name the outputs, or have another batch size.
        Source: caffe/python/caffe/pycaffe.py, _Net_backward. Differs: none.
        """
        first = self._layer_index(start) if start is not None else len(self.layers) - 1
        last = self._layer_index(end) if end is not None else 0
        names = self.bottom_names[end] if end is not None else self.inputs
        if kwargs:
            batches.write_diffs(self.blobs, kwargs, self.outputs)
        self._backward(first, last)
        return {name: self.blobs[name].diff for name in {*names, *(diffs or ())}}

    def forward_all(
        self, blobs: Sequence[str] | None = None, **kwargs: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Runs the net on any number of inputs, batch by batch.

        Args:
          blobs: further blobs to return.
          **kwargs: input blob -> (N, ...) values.

        Returns:
          Blob -> (N, ...) values.
        Source: caffe/python/caffe/pycaffe.py, _Net_forward_all. Differs: the padding of
        the last batch is cut off by the number of inputs.
        """
        found: dict[str, list[np.ndarray]] = {}
        for batch in self._batch(kwargs):
            for name, value in self.forward(blobs, None, None, **batch).items():
                found.setdefault(name, []).append(value.copy())
        return batches.join_batches(found, len(next(iter(kwargs.values()))))

    def forward_backward_all(
        self,
        blobs: Sequence[str] | None = None,
        diffs: Sequence[str] | None = None,
        **kwargs: np.ndarray,
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Runs the net forward and backward on any number of inputs.

        Args:
          blobs: further blobs to return.
          diffs: further blobs whose diff is returned.
          **kwargs: input blob -> (N, ...) values, output blob -> (N, ...) diffs.

        Returns:
          Blob -> (N, ...) values, and blob -> (N, ...) diffs.
        Source: caffe/python/caffe/pycaffe.py, _Net_forward_backward_all. Differs: as
        forward_all.
        """
        into = {name: kwargs[name] for name in self.inputs if name in kwargs}
        onto = {name: kwargs[name] for name in self.outputs if name in kwargs}
        values: dict[str, list[np.ndarray]] = {}
        gradients: dict[str, list[np.ndarray]] = {}
        nothing: dict[str, np.ndarray] = {}
        for inputs, tops in itertools.zip_longest(
            self._batch(into), self._batch(onto), fillvalue=nothing
        ):
            for name, value in self.forward(blobs, None, None, **inputs).items():
                values.setdefault(name, []).append(value.copy())
            for name, value in self.backward(diffs, None, None, **tops).items():
                gradients.setdefault(name, []).append(value.copy())
        count = len(next(iter(kwargs.values())))
        return batches.join_batches(values, count), batches.join_batches(
            gradients, count
        )

    def set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Sets the records of the net's MemoryData layer, its first layer.

        Args:
          data: (N, C, H, W) float32, N a multiple of the batch size.
          labels: (N,) or (N, 1, 1, 1) float32.

        Raises:
          RuntimeError: the first layer is of another type; arrays of another shape.
        Source: caffe/python/caffe/pycaffe.py, _Net_set_input_arrays. Differs: none.
        """
        if labels.ndim == 1:
            labels = np.ascontiguousarray(labels[:, None, None, None])
        self._set_input_arrays(data, labels)

    def _set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        feed = self.state.feeds.get(0)
        if not isinstance(feed, MemoryFeed):
            raise RuntimeError(
                "set_input_arrays may only be called if the first layer is a "
                "MemoryDataLayer"
            )
        feed.set_arrays(data, labels)

    def before_forward(self, callback: Callback) -> None:
        """Has `callback(number)` called before each layer of a forward pass."""
        self.state.callbacks["before_forward"].append(callback)

    def after_forward(self, callback: Callback) -> None:
        """Has `callback(number)` called after each layer of a forward pass."""
        self.state.callbacks["after_forward"].append(callback)

    def before_backward(self, callback: Callback) -> None:
        """Has `callback(number)` called before each layer of a backward pass."""
        self.state.callbacks["before_backward"].append(callback)

    def after_backward(self, callback: Callback) -> None:
        """Has `callback(number)` called after each layer of a backward pass."""
        self.state.callbacks["after_backward"].append(callback)

    def _forward(self, start: int, end: int) -> float:
        """Runs layers `start` to `end` and returns the loss of those."""
        return float(self.run_forward(start, end))

    def run_forward(self, start: int, end: int) -> float | jax.Array:
        """Runs layers `start` to `end`; their loss may still be on the device."""
        calls = [self.state.callbacks[m] for m in ("before_forward", "after_forward")]
        if not any(calls):
            return forward.run_layers(self.state, start, end + 1)
        loss = 0.0
        for index in range(start, end + 1):
            for callback in calls[0]:
                callback(index)
            loss += float(forward.run_layers(self.state, index, index + 1))
            for callback in calls[1]:
                callback(index)
        return loss

    def _backward(self, start: int, end: int) -> None:
        """Runs layers `start` down to `end` backward."""
        calls = [self.state.callbacks[m] for m in ("before_backward", "after_backward")]
        if not any(calls):
            backward.run_layers(self.state, end, start + 1)
            return
        for index in range(start, end - 1, -1):
            for callback in calls[0]:
                callback(index)
            backward.run_layers(self.state, index, index + 1)
            for callback in calls[1]:
                callback(index)

    def run_forward_backward(self) -> float | jax.Array:
        """Runs the whole net forward and backward, and returns its loss."""
        if any(self.state.callbacks.values()) or self.state.has_host:
            loss = self.run_forward(0, self.state.size - 1)
            self._backward(self.state.size - 1, 0)
            return loss
        return backward.run_both(self.state)

    def reshape(self) -> None:
        """Gives every blob the shape that follows from the inputs' shapes.

        Raises:
          PrototxtError: the net cannot have such inputs, or not with its weights.
        """
        shaping.reshape(self.state)

    # Weights.

    def clear_param_diffs(self) -> None:
        """Sets the gradients of all parameters to zero."""
        memory.clear_diffs(self.state)

    def copy_from(self, weights_file: str) -> None:
        """Copies weights from a .caffemodel or .h5 file, by layer name.

        Raises:
          RuntimeError: the file cannot be opened.
          SnapshotError: it is broken, or a layer's blobs do not fit.
        """
        saving.copy_from(self.state, weights_file)

    def save(self, filename: str) -> None:
        """Writes the weights as a .caffemodel, whatever the name; an older file goes.

        Raises:
          SnapshotError: the file cannot be written.
        """
        saving.save(self.state, filename)

    def save_hdf5(self, filename: str) -> None:
        """Writes the weights as HDF5, whatever the name; an older file goes.

        Raises:
          SnapshotError: the file cannot be written.
        """
        saving.save_hdf5(self.state, filename)

    def load_hdf5(self, filename: str) -> None:
        """Copies weights from an HDF5 file, by layer name; as copy_from."""
        self.copy_from(filename)

    def share_with(self, other: Net) -> None:
        """Takes the memory of another net's parameters, for layers of one name.

        Raises:
          ValueError: blobs of other shapes.
        Source: caffe/src/caffe/net.cpp, ShareTrainedLayersWith. Differs: none.
        """
        memory.share(self.state, other.state)

    def close(self) -> None:
        """Ends the threads that read data ahead."""
        self._closer()

    # Inside.

    def _layer_index(self, name: str) -> int:
        try:
            return self._layer_names.index(name)
        except ValueError:
            near = errors.nearest(name, self._layer_names)
            raise ValueError(f'no layer is named "{name}". Accepted: {near}') from None

    def _batch(
        self, arrays: Mapping[str, Sequence[np.ndarray] | np.ndarray]
    ) -> Iterator[dict[str, np.ndarray]]:
        return batches.cut_batches(arrays, next(iter(self.blobs.values())).shape[0])


def _close_feeds(feeds: Mapping[int, RecordFeed | MemoryFeed]) -> None:
    for feed in feeds.values():
        feed.close()
