"""pycaffe's Net: a net whose blobs, parameters and gradients lie open.

Follows caffe/python/caffe/pycaffe.py and the Net of caffe/python/caffe/_caffe.cpp.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcaffe import errors
from jaxcaffe.caffe_files.caffemodel import saved_layers, write_caffemodel
from jaxcaffe.caffe_files.hdf5 import write_weights as write_hdf5
from jaxcaffe.caffe_files.weights import copy_weights
from jaxcaffe.log import logger
from jaxcaffe.net import graph as graphs
from jaxcaffe.net import translate, weights
from jaxcaffe.net.backward import BackwardPlan, plan_backward
from jaxcaffe.net.params import is_owner
from jaxcaffe.proto import caffe_pb2, text, upgrade
from jaxcaffe.pycaffe import modes, programs
from jaxcaffe.pycaffe.blob import Blob, BlobVec, SharedBlob
from jaxcaffe.pycaffe.feeds import MemoryFeed, is_constant, open_feeds
from jaxcaffe.pycaffe.layer import NetLayer, list_layer, users_error
from jaxcaffe.pycaffe.programs import Stretch
from jaxcaffe.spec import Blobs, Graph, Params, Shape, Stats
from jaxcaffe.spec import Net as CoreNet

_EXACT_SHAPES = ("Filter",)
"""Types whose tops' shapes depend on values, so that nets with them run uncompiled."""

Callback = Callable[[int], object]
"""Called with a layer's number."""


class _Built(NamedTuple):
    """The net for one set of input shapes, and its compiled programs."""

    net: CoreNet
    plan: BackwardPlan
    programs: dict[Any, Any]


class _Pass(NamedTuple):
    """What a forward pass was given, from which all of it can be computed again."""

    built: _Built
    stretch: Stretch
    params: Params
    stats: Stats
    blobs: Blobs
    number: np.uint32  # of the pass, for its random numbers
    host_tops: programs.HostTops  # filled by the pass itself


class Net:
    """A net whose blobs can be read, written and run layer by layer.

    Args:
      network_file: path of a net prototxt.
      phase: caffe.TRAIN or caffe.TEST.
      level: of the NetState.
      stages: of the NetState.
      weights: .caffemodel or .h5 file to copy weights from, by layer name.

    The older form Net(network_file, weights, phase) works too.

    Attributes:
      blobs: name -> Blob, in the order in which layers make them.
      params: layer -> its learned Blobs.
      layers: every layer, splits included.

    Raises:
      RuntimeError: a file cannot be opened.
      CaffeError: the net, its data or its weights cannot be used; says where and why.

    Source: caffe/python/caffe/pycaffe.py. Differs: a net is compiled once for each set
    of input shapes; what nobody reads is neither computed nor copied; the gradient of a
    forward pass that started elsewhere than the backward pass ends is taken from the
    values that the blobs have now.
    """

    def __init__(self, network_file: str, *args: Any, **kwargs: Any) -> None:
        phase, level, stages, pretrained = _parse_arguments(args, kwargs)
        _check_file(network_file)
        param, source = text.read_net(network_file)
        param = upgrade.upgrade_net(param, source)
        state = caffe_pb2.NetState(level=level, stage=stages or ())
        state.phase = caffe_pb2.Phase.Name(phase)
        self._init_from(param, state, source)
        if pretrained is not None:
            self.copy_from(pretrained)

    @classmethod
    def from_param(
        cls,
        param: caffe_pb2.NetParameter,
        state: caffe_pb2.NetState,
        source: text.Source | None = None,
    ) -> Net:
        """Makes a net from an upgraded NetParameter, as a solver does."""
        net = cls.__new__(cls)
        net._init_from(param, state, source)
        return net

    def _init_from(
        self,
        param: caffe_pb2.NetParameter,
        state: caffe_pb2.NetState,
        source: text.Source | None,
    ) -> None:
        modes.start_log()
        seed = modes.draw_seed()
        self._graph: Graph = graphs.build_graph(param, state, source)
        self._feeds = open_feeds(self._graph, seed)
        self._key = jax.random.key(seed)
        self._passes = 0
        self._fed = tuple(
            top
            for index, node in enumerate(self._graph.nodes)
            for top in node.tops
            if index in self._feeds or node.layer.type == "Input"
        )
        self._cache: dict[tuple[Shape, ...], _Built] = {}
        self._last: dict[int, _Pass] = {}  # layer -> the forward pass that last ran it
        # Shapes that depend on values are known only once the values are.
        self._is_exact = any(n.layer.type in _EXACT_SHAPES for n in self._graph.nodes)
        # The user's Python layers are called once in each pass, not again for a blob.
        self._has_host = any(node.slot is not None for node in self._graph.nodes)
        self._wants_all = {
            "forward": self._is_exact or self._has_host,
            "backward": self._has_host,
        }
        self._callbacks: dict[str, list[Callback]] = {
            moment: []
            for moment in (
                "before_forward",
                "after_forward",
                "before_backward",
                "after_backward",
            )
        }
        structs: dict[str, jax.ShapeDtypeStruct] = {}
        for feed in self._feeds.values():
            structs.update(feed.structs)
        try:
            self._built = self._build(structs)
        except errors.PrototxtError as error:
            raise users_error(error) from error
        net = self._built.net
        self.blobs: OrderedDict[str, Blob] = OrderedDict(
            (name, Blob(net.structs[name].shape)) for name in self._graph.blobs
        )
        self._held = self._find_held()
        self._make_weights()
        self._fill_constants()
        self._set_loss_diffs()
        self.layers = [
            list_layer(node, self.params.get(node.key, BlobVec()))
            for node in self._graph.nodes
        ]
        logger.info("Network initialization done.")

    # What the net consists of.

    @property
    def name(self) -> str:
        """The file's name for the net."""
        return self._graph.name

    @property
    def inputs(self) -> list[str]:
        """Tops of Input layers."""
        return [
            top
            for node in self._graph.nodes
            if node.layer.type == "Input"
            for top in node.tops
        ]

    @property
    def outputs(self) -> list[str]:
        """Blobs that no layer uses, sorted by name."""
        return list(self._graph.outputs)

    @property
    def layer_dict(self) -> OrderedDict[str, NetLayer]:
        """Layer name -> layer."""
        return OrderedDict(zip(self._layer_names, self.layers, strict=True))

    @property
    def top_names(self) -> OrderedDict[str, list[str]]:
        """Layer name -> names of its tops."""
        return OrderedDict((n.layer.name, list(n.tops)) for n in self._graph.nodes)

    @property
    def bottom_names(self) -> OrderedDict[str, list[str]]:
        """Layer name -> names of its bottoms."""
        return OrderedDict((n.layer.name, list(n.bottoms)) for n in self._graph.nodes)

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        """Blob name -> its share in the loss."""
        found = dict.fromkeys(self._graph.blobs, 0.0)
        for node in self._graph.nodes:
            found.update(
                {t: w for t, w in zip(node.tops, node.loss_weights, strict=True) if w}
            )
        return OrderedDict((name, found[name]) for name in self._graph.blobs)

    @property
    def _layer_names(self) -> list[str]:
        return [node.layer.name for node in self._graph.nodes]

    @property
    def _blob_names(self) -> list[str]:
        return list(self._graph.blobs)

    @property
    def _blobs(self) -> list[Blob]:
        return [self.blobs[name] for name in self._graph.blobs]

    @property
    def _blob_loss_weights(self) -> list[float]:
        return [self.blob_loss_weights[name] for name in self._graph.blobs]

    @property
    def _inputs(self) -> list[int]:
        return [self._graph.blobs.index(name) for name in self.inputs]

    @property
    def _outputs(self) -> list[int]:
        return [self._graph.blobs.index(name) for name in self.outputs]

    def _top_ids(self, index: int) -> list[int]:
        return [self._graph.blobs.index(t) for t in self._graph.nodes[index].tops]

    def _bottom_ids(self, index: int) -> list[int]:
        return [self._graph.blobs.index(b) for b in self._graph.nodes[index].bottoms]

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
        names = self.top_names[end] if end is not None else self.outputs
        self._write_sides(kwargs, self.inputs, "data", "Input")
        self._run_forward(first, last)
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
        self._write_sides(kwargs, self.outputs, "diff", "Top diff")
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
        return _join(found, len(next(iter(kwargs.values()))))

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
        return _join(values, count), _join(gradients, count)

    def reshape(self) -> None:
        """Gives every blob the shape that follows from the inputs' shapes."""
        structs = self._built.net.structs
        if all(self.blobs[top].shape == structs[top].shape for top in self._fed):
            return
        built = self._build(
            {
                top: jax.ShapeDtypeStruct(self.blobs[top].shape, jnp.float32)
                for top in self._fed
            }
        )
        _check_weights(self._built.net, built.net)
        self._built = built
        self._last.clear()
        for name, blob in self.blobs.items():
            blob.reshape(*built.net.structs[name].shape)
        self._make_hidden()
        self._set_loss_diffs()

    def clear_param_diffs(self) -> None:
        """Sets the gradients of all parameters to zero."""
        for blob in self._owners.values():
            if not blob.diff_side.is_zero:
                blob.diff_side.put(jnp.zeros(blob.shape, jnp.float32))

    def set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Sets the records of the net's MemoryData layer, its first layer.

        Args:
          data: (N, C, H, W) float32, N a multiple of the batch size.
          labels: (N,) or (N, 1, 1, 1) float32.

        Raises:
          RuntimeError: the first layer is of another type; arrays of another shape.
        Source: caffe/python/caffe/pycaffe.py, _Net_set_input_arrays. Differs: none.
        """
        feed = self._feeds.get(0)
        if not isinstance(feed, MemoryFeed):
            raise RuntimeError(
                "set_input_arrays may only be called if the first layer is a "
                "MemoryDataLayer"
            )
        if labels.ndim == 1:
            labels = np.ascontiguousarray(labels[:, None, None, None])
        feed.set_arrays(data, labels)

    def before_forward(self, callback: Callback) -> None:
        """Has `callback(number)` called before each layer of a forward pass."""
        self._callbacks["before_forward"].append(callback)

    def after_forward(self, callback: Callback) -> None:
        """Has `callback(number)` called after each layer of a forward pass."""
        self._callbacks["after_forward"].append(callback)

    def before_backward(self, callback: Callback) -> None:
        """Has `callback(number)` called before each layer of a backward pass."""
        self._callbacks["before_backward"].append(callback)

    def after_backward(self, callback: Callback) -> None:
        """Has `callback(number)` called after each layer of a backward pass."""
        self._callbacks["after_backward"].append(callback)

    def _forward(self, start: int, end: int) -> float:
        """Runs layers `start` to `end` and returns the loss of those."""
        return float(self._run_forward(start, end))

    def run_forward_backward(self) -> float | jax.Array:
        """Runs the whole net forward and backward, and returns its loss.

        Source: caffe/include/caffe/net.hpp, ForwardBackward. Differs: one program, so
        that only what is read of blobs and their diffs is computed again.
        """
        stop = len(self._graph.nodes)
        if any(self._callbacks.values()) or self._has_host:
            loss = self._run_forward(0, stop - 1)
            self._backward(stop - 1, 0)
            return loss
        self._read_feeds(0, stop)
        self.reshape()
        one = self._open_pass(0, stop)
        built = one.built
        gets, open_tops = programs.reached(built.net, built.plan, 0, stop)
        top_diffs = {t: self.blobs[t].diff_side.to_device() for t in open_tops}
        made, wanted = self._choose_wanted(one)

        def make() -> programs.ForwardBackward:
            shapes = {name: blob.shape for name, blob in self.blobs.items()}
            return programs.make_forward_backward(
                built.net, built.plan, one.stretch, shapes, wanted
            )

        program = self._compile(built, ("both", wanted), make)
        with self._running():
            values, stats, loss, gradients = program(
                one.params, one.stats, one.blobs, one.number, top_diffs
            )
        self._put_pass(one, made, values, stats)
        run_back = functools.partial(
            self._run_back_program, one, 0, stop, top_diffs, {}
        )
        self._defer_diffs(run_back, gets)
        self.add_param_diffs(gradients, self._learning(built, 0, stop))
        return loss

    def _run_forward(self, start: int, end: int) -> float | jax.Array:
        calls = [self._callbacks[m] for m in ("before_forward", "after_forward")]
        if not any(calls):
            return self._run_stretch(start, end + 1)
        loss = 0.0
        for index in range(start, end + 1):
            for callback in calls[0]:
                callback(index)
            loss += float(self._run_stretch(index, index + 1))
            for callback in calls[1]:
                callback(index)
        return loss

    def _backward(self, start: int, end: int) -> None:
        """Runs layers `start` down to `end` backward."""
        calls = [self._callbacks[m] for m in ("before_backward", "after_backward")]
        if not any(calls):
            self._run_back(end, start + 1)
            return
        for index in range(start, end - 1, -1):
            for callback in calls[0]:
                callback(index)
            self._run_back(index, index + 1)
            for callback in calls[1]:
                callback(index)

    def _run_stretch(self, start: int, stop: int) -> jax.Array:
        self._read_feeds(start, stop)
        self.reshape()
        one = self._open_pass(start, stop)
        made, wanted = self._choose_wanted(one)
        values, stats, loss = self._run_pass(one, wanted)
        self._put_pass(one, made, values, stats)
        return loss

    def _choose_wanted(self, one: _Pass) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Returns all blobs that a pass makes, and those worth having at once."""
        made = programs.makes(one.built.net, one.stretch)
        last = self._graph.nodes[one.stretch.stop - 1].tops
        lean = tuple(name for name in made if name in (*self._graph.outputs, *last))
        return made, made if self._wants_all["forward"] else lean

    def _put_pass(
        self, one: _Pass, made: tuple[str, ...], values: Blobs, stats: Stats
    ) -> None:
        for name, value in values.items():
            self._put_data(name, value)
        rest = tuple(name for name in made if name not in values)
        if rest:
            compute_rest = _once(lambda: self._run_rest(one, rest))
            for name in rest:
                self.blobs[name].data_side.put(_item(compute_rest, name))
        self._put_stats(stats)
        for index in range(one.stretch.start, one.stretch.stop):
            self._last[index] = one

    def _open_pass(self, start: int, stop: int) -> _Pass:
        stretch = Stretch(start, stop, self._held)
        names = programs.outside(self._built.net, stretch)
        number = np.uint32(self._passes)
        self._passes += 1
        params, stats = self._weights()
        blobs = {name: self.blobs[name].data_side.to_device() for name in names}
        return _Pass(self._built, stretch, params, stats, blobs, number, {})

    def _run_pass(
        self, one: _Pass, wanted: tuple[str, ...]
    ) -> tuple[Blobs, Stats, jax.Array]:
        def make() -> programs.Forward:
            return programs.make_forward(one.built.net, one.stretch, wanted)

        program = self._compile(one.built, ("forward", one.stretch, wanted), make)
        with self._running():
            values, stats, loss, host_tops = program(
                one.params, one.stats, one.blobs, one.number
            )
        one.host_tops.update(host_tops)
        return values, stats, loss

    def _run_rest(self, one: _Pass, wanted: tuple[str, ...]) -> Blobs:
        # Whoever reads one blob inside the net is likely to do so again.
        self._wants_all["forward"] = True
        return self._run_pass(one, wanted)[0]

    def _run_back(self, start: int, stop: int) -> None:
        self.reshape()
        one, overrides = self._find_pass(start, stop)
        built = one.built
        gets, open_tops = programs.reached(built.net, built.plan, start, stop)
        top_diffs = {t: self.blobs[t].diff_side.to_device() for t in open_tops}
        lean = {b for b in self._graph.nodes[start].bottoms if b in gets}
        lean |= {name for name in self.inputs if name in gets}
        wanted = gets if self._wants_all["backward"] else lean
        run = functools.partial(
            self._run_back_program, one, start, stop, top_diffs, overrides
        )
        gradients, diffs = run(frozenset(wanted))
        for name, value in diffs.items():
            self.blobs[name].diff_side.put(value)
        self._defer_diffs(run, gets - wanted)
        self.add_param_diffs(gradients, self._learning(built, start, stop))

    def _defer_diffs(
        self,
        run: Callable[[frozenset[str]], tuple[Params, Blobs]],
        names: frozenset[str],
    ) -> None:
        """Has diffs computed when one of them is asked for."""

        def run_rest() -> Blobs:
            self._wants_all["backward"] = True
            return run(names)[1]

        compute = _once(run_rest)
        for name in names:
            self.blobs[name].diff_side.put(_item(compute, name))

    def _run_back_program(
        self,
        one: _Pass,
        start: int,
        stop: int,
        top_diffs: Blobs,
        overrides: Blobs,
        wanted: frozenset[str],
    ) -> tuple[Params, Blobs]:
        stretch = one.stretch._replace(stop=stop)
        # Blobs have their true shapes also where those depend on values.
        shapes = {name: blob.shape for name, blob in self.blobs.items()}

        def make() -> programs.Backward:
            return programs.make_backward(
                one.built.net, one.built.plan, stretch, start, shapes, wanted
            )

        replayed = frozenset(one.host_tops)
        key = ("backward", stretch, start, wanted, frozenset(overrides), replayed)
        program = self._compile(one.built, key, make)
        with self._running():
            return program(
                one.params,
                one.stats,
                one.blobs,
                one.number,
                one.host_tops,
                top_diffs,
                overrides,
            )

    def _find_pass(self, start: int, stop: int) -> tuple[_Pass, Blobs]:
        """Returns the forward pass to go back through, and values written since."""
        one = self._last.get(stop - 1)
        same = one is not None and all(
            self._last.get(index) is one for index in range(start, stop)
        )
        if one is None or not same or self._was_changed(one):
            return self._open_pass(start, stop), {}
        made = programs.makes(one.built.net, one.stretch._replace(stop=stop))
        overrides = {
            name: self.blobs[name].data_side.to_device()
            for name in made
            if self.blobs[name].data_side.was_written()
        }
        return one, overrides

    def _was_changed(self, one: _Pass) -> bool:
        """Returns whether what a pass was given has been written to since."""
        own = one.blobs.keys() - set(programs.makes(one.built.net, one.stretch))
        sides = [self.blobs[name].data_side for name in own]
        sides += [blob.data_side for blob in self._owners.values()]
        return any(side.was_written() for side in sides)

    def _learning(
        self, built: _Built, start: int, stop: int
    ) -> frozenset[tuple[str, str]]:
        """Returns the owners whose gradient layers `start` to `stop` compute."""
        infos = weights.layer_infos(built.net)
        return frozenset(
            info.owner
            for index in range(start, stop)
            if built.plan.layers[index]
            for info, learns in zip(
                infos.get(self._graph.nodes[index].key, ()),
                built.plan.params[index],
                strict=True,
            )
            if learns and not info.is_stat
        )

    def add_param_diffs(
        self, gradients: Params, which: frozenset[tuple[str, str]]
    ) -> None:
        """Adds gradients to the diffs of the parameters that they belong to."""
        for layer, name in which:
            side = self._owners[layer, name].diff_side
            gradient = gradients[layer][name]
            side.put(gradient if side.is_zero else side.to_device() + gradient)

    # Weights.

    def copy_from(self, weights_file: str) -> None:
        """Copies weights from a .caffemodel or .h5 file, by layer name.

        Raises:
          RuntimeError: the file cannot be opened.
          SnapshotError: it is broken, or a layer's blobs do not fit.
        """
        _check_file(weights_file)
        params, stats, report = copy_weights(
            self._built.net, *self._weights(), weights_file
        )
        for name in report.ignored:
            logger.info("Ignoring source layer %s", name)
        self._put_weights(params, stats)

    def save(self, filename: str) -> None:
        """Writes the weights as a .caffemodel, whatever the name; an older file goes.

        Raises:
          SnapshotError: the file cannot be written.
        """
        net = self._built.net
        blobs = weights.export_weights(net, *self._weights())
        write_caffemodel(filename, net.graph.name, saved_layers(net), blobs)

    def save_hdf5(self, filename: str) -> None:
        """Writes the weights as HDF5, whatever the name; an older file goes.

        Raises:
          SnapshotError: the file cannot be written.
        """
        net = self._built.net
        blobs = weights.export_weights(net, *self._weights())
        names = [layer.name for layer in saved_layers(net)]
        infos = weights.layer_infos(net)
        own: dict[str, list[np.ndarray | None]] = {
            layer: [
                array if is_owner(info) else None
                for array, info in zip(arrays, infos[layer], strict=True)
            ]
            for layer, arrays in blobs.items()
        }
        write_hdf5(filename, names, own, {})

    def load_hdf5(self, filename: str) -> None:
        """Copies weights from an HDF5 file, by layer name; as copy_from."""
        self.copy_from(filename)

    def share_with(self, other: Net) -> None:
        """Takes the memory of another net's parameters, for layers of one name.

        Raises:
          ValueError: blobs of other shapes.
        Source: caffe/src/caffe/net.cpp, ShareTrainedLayersWith. Differs: none.
        """
        for (layer, name), blob in self._owners.items():
            theirs = other._owners.get((layer, name))
            if theirs is None:
                if layer in other.params:
                    raise ValueError(
                        f'share_with: layer "{layer}" of the other net has no "{name}"'
                    )
                continue
            if theirs.shape != blob.shape:
                raise ValueError(
                    f'share_with: "{name}" of layer "{layer}" has shape {theirs.shape} '
                    f"there and {blob.shape} here"
                )
            blob.data_side = theirs.data_side
        self._rebind()

    @property
    def core(self) -> CoreNet:
        """The translated net at the present input shapes."""
        return self._built.net

    def device_weights(self) -> tuple[Params, Stats]:
        """Returns params and stats as the core takes them."""
        return self._weights()

    def put_params(self, params: Params) -> None:
        """Replaces the values of parameters."""
        for layer, arrays in params.items():
            for name, value in arrays.items():
                self._owners[layer, name].data_side.put(value)

    def param_diffs(self) -> Params:
        """Returns the gradients of all parameters, shaped like params."""
        return self._tree(lambda blob: blob.diff_side.to_device())

    def put_param_diffs(self, diffs: Params) -> None:
        """Replaces the gradients of parameters."""
        for layer, arrays in diffs.items():
            for name, value in arrays.items():
                self._owners[layer, name].diff_side.put(value)

    def close(self) -> None:
        """Ends the threads that read data ahead."""
        for feed in self._feeds.values():
            feed.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    # Inside.

    def _build(self, structs: Mapping[str, jax.ShapeDtypeStruct]) -> _Built:
        given = tuple(structs[top].shape if top in structs else () for top in self._fed)
        if given not in self._cache:
            net = translate.build_net(self._graph, structs)
            built = _Built(net, plan_backward(net), {})
            # Of the first net the Input layers' shapes come from the file.
            shapes = tuple(net.structs[top].shape for top in self._fed)
            self._cache[given] = self._cache[shapes] = built
        return self._cache[given]

    def _find_held(self) -> frozenset[str]:
        return frozenset(
            top
            for node in self._graph.nodes
            for i, top in enumerate(node.tops)
            if is_constant(node, i)
        )

    def _fill_constants(self) -> None:
        if not self._held:
            return
        net = self._built.net
        for index, node in enumerate(self._graph.nodes):
            if self._held.isdisjoint(node.tops):
                continue
            stretch = Stretch(index, index + 1, frozenset())
            run = programs.make_forward(net, stretch, node.tops)
            values, *_ = run({}, {}, {}, self._key)
            for top in self._held.intersection(node.tops):
                self.blobs[top].data_side.put(values[top])

    def _make_weights(self) -> None:
        net = self._built.net
        with modes.on_device():
            params, stats = jax.jit(net.init)(self._key)
        self._owners: dict[tuple[str, str], Blob] = {}
        for info in filter(is_owner, net.params):
            self._owners[info.layer, info.blob] = Blob(info.shape)
        self._hidden: Stats = {}
        self._rebind()
        self._put_weights(params, stats)

    def _rebind(self) -> None:
        """Makes `params`; a layer that shares has the owner's blob."""
        self.params: OrderedDict[str, BlobVec] = OrderedDict()
        for layer, infos in weights.layer_infos(self._built.net).items():
            blobs = [self._owners[info.owner] for info in infos]
            self.params[layer] = BlobVec(
                blob if blob.shape == info.shape else SharedBlob(blob, info.shape)
                for blob, info in zip(blobs, infos, strict=True)
            )
        for index, layer in enumerate(getattr(self, "layers", ())):
            layer.blobs[:] = self.params.get(self._graph.nodes[index].key, BlobVec())

    def _make_hidden(self) -> None:
        """Starts hidden states anew where their shapes have changed."""
        if not self._hidden:
            return
        _, fresh = jax.jit(self._built.net.init)(self._key)
        for layer, arrays in self._hidden.items():
            for name, value in arrays.items():
                if fresh[layer][name].shape != value.shape:
                    arrays[name] = fresh[layer][name]

    def _tree(self, value: Callable[[Blob], jax.Array]) -> Params:
        tree: Params = {}
        for info in filter(is_owner, self._built.net.params):
            if not info.is_stat:
                blob = self._owners[info.owner]
                tree.setdefault(info.layer, {})[info.blob] = value(blob)
        return tree

    def _weights(self) -> tuple[Params, Stats]:
        params = self._tree(lambda blob: blob.data_side.to_device())
        stats: Stats = {layer: dict(arrays) for layer, arrays in self._hidden.items()}
        for info in filter(is_owner, self._built.net.params):
            if info.is_stat:
                value = self._owners[info.owner].data_side.to_device()
                stats.setdefault(info.layer, {})[info.blob] = value
        return params, stats

    def _put_weights(self, params: Params, stats: Stats) -> None:
        self.put_params(params)
        self._put_stats(stats)

    def _put_stats(self, stats: Stats) -> None:
        for layer, arrays in stats.items():
            for name, value in arrays.items():
                blob = self._owners.get((layer, name))
                if blob is None:
                    self._hidden.setdefault(layer, {})[name] = value
                elif blob.data_side.is_zero or value is not blob.data_side.to_device():
                    blob.data_side.put(value)

    def _set_loss_diffs(self) -> None:
        for node in self._graph.nodes:
            for top, weight in zip(node.tops, node.loss_weights, strict=True):
                if weight:
                    blob = self.blobs[top]
                    blob.diff_side.put(jnp.full(blob.shape, weight, jnp.float32))

    def _put_data(self, name: str, value: jax.Array) -> None:
        blob = self.blobs[name]
        if blob.shape != value.shape:
            blob.reshape(*value.shape)
        blob.data_side.put(value)

    def _read_feeds(self, start: int, stop: int) -> None:
        for index, feed in self._feeds.items():
            if start <= index < stop:
                for top, value in feed().items():
                    self._put_data(top, value)

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """Runs programs; what the user's own layers raise comes out as it was."""
        with modes.on_device():
            if not self._has_host:
                yield
                return
            try:
                with errors.from_callbacks():
                    yield
                    jax.effects_barrier()
            except errors.CaffeError as error:
                for slot in (node.slot for node in self._graph.nodes):
                    failure = getattr(slot and slot.value, "failure", None)
                    if slot is not None and failure is not None:
                        slot.value.failure = None
                        raise failure from error
                raise

    def _compile(self, built: _Built, key: Any, make: Callable[[], Any]) -> Any:
        if key not in built.programs:
            run = make()

            def run_numbered(
                params: Params, stats: Stats, blobs: Blobs, number: Any, *rest: Any
            ) -> Any:
                # Inside the program: each operation outside costs as much as a layer.
                pass_key = jax.random.fold_in(self._key, number)
                return run(params, stats, blobs, pass_key, *rest)

            built.programs[key] = (
                run_numbered if self._is_exact else jax.jit(run_numbered)
            )
        return built.programs[key]

    def _layer_index(self, name: str) -> int:
        try:
            return self._layer_names.index(name)
        except ValueError:
            near = errors.nearest(name, self._layer_names)
            raise ValueError(f'no layer is named "{name}". Accepted: {near}') from None

    def _write_sides(
        self, given: Mapping[str, np.ndarray], names: list[str], side: str, what: str
    ) -> None:
        if not given:
            return
        if set(given) != set(names):
            kind = "net inputs" if side == "data" else "net outputs"
            subject = "Input blob" if side == "data" else what
            raise Exception(
                f"{subject} arguments do not match {kind}: {', '.join(sorted(given))} "
                f"for {', '.join(names) or 'none'}."
            )
        for name, value in given.items():
            if value.shape[0] != self.blobs[name].shape[0]:
                what = "Input" if side == "data" else "Diff"
                raise Exception(
                    f"{what} is not batch sized: {name} has {value.shape[0]} rows, the "
                    f"net {self.blobs[name].shape[0]}."
                )
            getattr(self.blobs[name], side)[...] = value

    def _batch(
        self, arrays: Mapping[str, Sequence[np.ndarray] | np.ndarray]
    ) -> Iterator[dict[str, np.ndarray]]:
        if not arrays:
            return
        size = next(iter(self.blobs.values())).shape[0]
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


def _parse_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[int, int, Sequence[str] | None, str | None]:
    known = ("phase", "level", "stages", "weights")
    unknown = sorted(set(kwargs) - set(known))
    if unknown:
        raise TypeError(
            f"Net has no argument {unknown[0]}. Accepted: {', '.join(known)}"
        )
    if len(args) == 2 and isinstance(args[0], (str, os.PathLike)):
        logger.warning("DEPRECATION WARNING - deprecated use of Python interface")
        logger.warning('Use this instead (with the named "weights" parameter):')
        logger.warning("Net(network_file, %s, weights='%s')", args[1], args[0])
        return int(args[1]), 0, None, os.fspath(args[0])
    given = {**dict(zip(known, args, strict=False)), **kwargs}
    if "phase" not in given:
        raise TypeError("Net needs a phase. Accepted: caffe.TRAIN, caffe.TEST")
    return (
        int(given["phase"]),
        int(given.get("level", 0)),
        given.get("stages"),
        given.get("weights"),
    )


def _check_file(path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise RuntimeError(f"Could not open file {path} ({error.strerror})") from error


def _check_weights(old: CoreNet, new: CoreNet) -> None:
    for before, after in zip(old.params, new.params, strict=True):
        if before.shape != after.shape:
            raise errors.PrototxtError(
                f'reshape: "{before.blob}" of layer "{before.layer}" has shape '
                f"{before.shape}, inputs of these shapes need {after.shape}. Accepted: "
                "inputs for which learned blobs keep their shapes"
            )


def _once(compute: Callable[[], Blobs]) -> Callable[[], Blobs]:
    found: list[Blobs] = []

    def run() -> Blobs:
        if not found:
            found.append(compute())
        return found[0]

    return run


def _item(compute: Callable[[], Blobs], name: str) -> Callable[[], jax.Array]:
    return lambda: compute()[name]


def _join(parts: Mapping[str, list[np.ndarray]], count: int) -> dict[str, np.ndarray]:
    return {
        name: np.concatenate([np.atleast_1d(part) for part in found])[:count]
        for name, found in parts.items()
    }
