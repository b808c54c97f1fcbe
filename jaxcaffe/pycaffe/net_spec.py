"""Nets written in Python: `n.conv1 = L.Convolution(n.data, kernel_size=5)`.

Follows caffe/python/caffe/net_spec.py.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from jaxcaffe.errors import CaffeError, describe, describe_layer, nearest
from jaxcaffe.proto import caffe_pb2

Names = dict["Top | Function", str]
"""Tops, and layers without tops, that have been given a name."""

LayerMap = dict["Function", caffe_pb2.LayerParameter]
"""Layers in the order in which they run."""

_LAYER: Descriptor = caffe_pb2.LayerParameter.DESCRIPTOR


class SpecError(CaffeError, AttributeError):
    """A layer is given a parameter that does not exist, or a name is asked for."""


class ValueKindError(CaffeError, TypeError):
    """A parameter is given a value of a kind that it cannot take."""


def param_name_dict() -> dict[str, str]:
    """Returns layer type -> name of its own parameters, without "_param".

    Source: caffe/python/caffe/net_spec.py. Differs: none.
    """
    return {
        field.message_type.name.removesuffix("Parameter"): field.name.removesuffix(
            "_param"
        )
        for field in _LAYER.fields
        if field.name.endswith("_param")
    }


_PARAM_NAMES = param_name_dict()


class Top:
    """One top of a layer, to be a bottom of others.

    Args:
      fn: the layer.
      n: number of the top.
    """

    def __init__(self, fn: Function, n: int) -> None:
        self.fn = fn
        self.n = n

    def to_proto(self) -> caffe_pb2.NetParameter:
        """Returns the net of all layers that this top needs."""
        return to_proto(self)

    def _to_proto(
        self, layers: LayerMap, names: Names, autonames: Counter[str]
    ) -> None:
        self.fn._to_proto(layers, names, autonames)


class Function:
    """One layer: its type, its bottoms and its parameters.

    Args:
      type_name: Caffe's type string.
      inputs: its bottoms.
      params: fields of the layer's own parameters or of the layer; besides `ntop`, the
        number of tops (1), and `in_place`, whether tops have the bottoms' names.

    Attributes:
      tops: its tops.

    Raises:
      TypeError: a bottom is no Top.

    Source: caffe/python/caffe/net_spec.py. Differs: `params` is not changed.
    """

    def __init__(
        self, type_name: str, inputs: Sequence[Top], params: Mapping[str, Any]
    ) -> None:
        self.type_name = type_name
        for index, bottom in enumerate(inputs):
            if not isinstance(bottom, Top):
                raise TypeError(
                    f"{type_name} input {index} is not a Top (type is {type(bottom)})"
                )
        self.inputs = inputs
        self.params = dict(params)
        self.ntop: int = self.params.pop("ntop", 1)
        self.in_place: bool = self.params.pop("in_place", False)
        self.tops = tuple(Top(self, n) for n in range(self.ntop))

    def to_proto(self) -> caffe_pb2.NetParameter:
        """Returns the net of this layer and all that it needs."""
        return to_proto(self)

    def _to_proto(
        self, layers: LayerMap, names: Names, autonames: Counter[str]
    ) -> None:
        # A stack of our own: a deep net would use up Python's.
        open_layers: list[tuple[Function, int]] = [(self, 0)]
        while open_layers:
            fn, done = open_layers.pop()
            if fn in layers:
                continue
            if done < len(fn.inputs):
                open_layers += [(fn, done + 1), (fn.inputs[done].fn, 0)]
            else:
                layers[fn] = fn._make_layer(layers, names, autonames)

    def _make_layer(
        self, layers: LayerMap, names: Names, autonames: Counter[str]
    ) -> caffe_pb2.LayerParameter:
        bottoms = [layers[bottom.fn].top[bottom.n] for bottom in self.inputs]
        layer = caffe_pb2.LayerParameter(type=self.type_name, bottom=bottoms)
        layer.top.extend(
            bottoms
            if self.in_place
            else [self._name(top, names, autonames) for top in self.tops]
        )
        layer.name = self._name(self.tops[0] if self.tops else self, names, autonames)
        for field, value in self.params.items():
            self._assign(layer, field, value)
        return layer

    def _name(
        self, named: Top | Function, names: Names, autonames: Counter[str]
    ) -> str:
        if named not in names:
            autonames[self.type_name] += 1
            names[named] = f"{self.type_name}{autonames[self.type_name]}"
        return names[named]

    def _assign(self, layer: caffe_pb2.LayerParameter, field: str, value: Any) -> None:
        own = _own_param(self.type_name)
        # "param", "transform_param" and the like name messages of the layer.
        if (
            own is not None
            and not field.endswith("param")
            and field in own.message_type.fields_by_name
        ):
            target: Message = getattr(layer, own.name)
        elif field in _LAYER.fields_by_name:
            target = layer
        else:
            raise SpecError(
                describe_layer(
                    "",
                    layer.name,
                    self.type_name,
                    f"has no parameter {field}",
                    _accepted(self.type_name, field, value),
                )
            )
        try:
            assign_proto(target, field, value)
        except (SpecError, ValueKindError) as error:
            where = f'layer "{layer.name}" ({self.type_name}): '
            raise type(error)(where + str(error)) from None


class NetSpec:
    """A net under construction: tops are assigned to its attributes and so named.

    Names that are no identifiers go into brackets: `n["conv2/3x3"]`.

    Source: caffe/python/caffe/net_spec.py. Differs: none.
    """

    tops: OrderedDict[str, Top | Function]

    def __init__(self) -> None:
        super().__setattr__("tops", OrderedDict())

    def __setattr__(self, name: str, value: Top | Function) -> None:
        self.tops[name] = value

    def __getattr__(self, name: str) -> Any:
        if name == "tops":  # asked for before __init__, by a copy
            raise AttributeError(name)
        if name not in self.tops:
            accepted = nearest(name, self.tops) if self.tops else ""
            raise _UnknownTopError(
                describe("", f'NetSpec has no top "{name}"', accepted)
            )
        return self.tops[name]

    def __setitem__(self, key: str, value: Top | Function) -> None:
        self.tops[key] = value

    def __getitem__(self, item: str) -> Any:
        return self.__getattr__(item)

    def to_proto(self) -> caffe_pb2.NetParameter:
        """Returns the net of all layers that the assigned tops need.

        A layer has the name of its first top. Tops without a name, which only other
        layers use, are called by their type and a number.
        """
        names = {top: name for name, top in self.tops.items()}
        return _make_net(self.tops.values(), names)


class _UnknownTopError(SpecError, KeyError):
    """Both what a missing attribute and what a missing item raises."""

    __str__ = Exception.__str__  # KeyError's puts quotes around the message


class Layers:
    """Makes layers: `Layers().Convolution(bottom, kernel_size=3)` is a Top.

    With another `ntop` than 1 the result is a tuple of Tops, or with 0 the Function.
    """

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):  # a copy or a debugger asks, no type begins so
            raise AttributeError(name)

        def make_layer(*args: Top, **kwargs: Any) -> Any:
            fn = Function(name, args, kwargs)
            if fn.ntop == 0:
                return fn
            return fn.tops[0] if fn.ntop == 1 else fn.tops

        return make_layer


class Parameters:
    """Finds constants of layers' parameters: `Parameters().Pooling.MAX`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(caffe_pb2, f"{name}Parameter", None)
        if found is None:
            raise SpecError(
                describe(
                    "", f"there is no {name}Parameter", nearest(name, _PARAM_NAMES)
                )
            )
        return found


layers = Layers()
params = Parameters()


def to_proto(*tops: Top | Function) -> caffe_pb2.NetParameter:
    """Returns the net of all layers that some tops need, all named by type and number.

    Source: caffe/python/caffe/net_spec.py. Differs: layers without tops may be given.
    """
    return _make_net(tops, {})


def assign_proto(proto: Message, name: str, val: Any) -> None:
    """Sets a field of a message from plain Python values.

    Args:
      proto: is changed.
      name: of the field.
      val: a dict for a message, a list for a repeated field (one value will do too), a
        number, a string; an enum's value may be given by its name.

    Raises:
      SpecError: a message has no field of that name.
      ValueKindError: the value does not suit the field.

    Source: caffe/python/caffe/net_spec.py. Differs: tuples and arrays are lists too.
    """
    fields = proto.DESCRIPTOR.fields_by_name
    if name not in fields:
        kind = proto.DESCRIPTOR.name
        raise SpecError(
            describe("", f"{kind} has no field {name}", nearest(name, fields))
        )
    field = fields[name]
    val = _plain(val)
    is_many = isinstance(val, list)
    if not field.is_repeated:
        if is_many:
            raise _kind_error(field, val)
        _assign_one(proto, field, val)
        return
    values = val if is_many else [val]
    if field.message_type is None:
        try:
            getattr(proto, name).extend(values)
        except (TypeError, ValueError) as error:
            raise _kind_error(field, val) from error
        return
    for value in values:
        if not isinstance(value, dict):
            raise _kind_error(field, value)
        item = getattr(proto, name).add()
        for key, inner in value.items():
            assign_proto(item, key, inner)


def _assign_one(proto: Message, field: FieldDescriptor, val: Any) -> None:
    if field.message_type is None:
        try:
            setattr(proto, field.name, val)
        except (TypeError, ValueError) as error:
            raise _kind_error(field, val) from error
        return
    if not isinstance(val, dict):
        raise _kind_error(field, val)
    for key, inner in val.items():
        assign_proto(getattr(proto, field.name), key, inner)


def _plain(val: Any) -> Any:
    """Turns arrays, tuples and numpy's numbers into lists and Python's numbers."""
    if isinstance(val, np.ndarray | np.generic):
        return val.tolist()
    if isinstance(val, list | tuple):
        return [_plain(item) for item in val]
    return val


def _kind_error(field: FieldDescriptor, val: Any) -> ValueKindError:
    if field.message_type is not None:
        accepted = f"dict({field.message_type.fields[0].name}=...) and the like"
    elif field.enum_type is not None:
        accepted = ", ".join(field.enum_type.values_by_name)
    else:
        accepted = {str: "a string", bytes: "bytes", bool: "True or False"}.get(
            type(field.default_value), "a number"
        )
    if field.is_repeated:
        accepted += ", or a list of them"
    return ValueKindError(describe("", f"{field.name} is {val!r}", accepted))


def _own_param(type_name: str) -> FieldDescriptor | None:
    name = _PARAM_NAMES.get(type_name)
    return None if name is None else _LAYER.fields_by_name[f"{name}_param"]


def _accepted(type_name: str, field: str, value: Any) -> str:
    """Says what to write instead of an unknown parameter."""
    own = _own_param(type_name)
    known = {} if own is None else own.message_type.fields_by_name
    if own is None:
        # Deconvolution, for one, has Convolution's parameters.
        holders = [
            f"{other.name}=dict({field}={value!r})"
            for other in _LAYER.fields
            if other.message_type and field in other.message_type.fields_by_name
        ]
        if holders:
            return " or ".join(holders[:3])
    return nearest(field, [*known, *_LAYER.fields_by_name, "ntop", "in_place"])


def _make_net(tops: Iterable[Top | Function], names: Names) -> caffe_pb2.NetParameter:
    made: LayerMap = {}
    autonames: Counter[str] = Counter()
    for top in tops:
        top._to_proto(made, names, autonames)
    return caffe_pb2.NetParameter(layer=made.values())
