"""The table of layer types, keyed by Caffe's type string.

Follows caffe/include/caffe/layer_factory.hpp and the blob counts of layer.hpp.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from flax import nnx

from jaxcaffe.errors import LayerError

Counts = int | tuple[int, int | None]
"""An exact number, or (least, most), most None for any number."""


class LayerType(NamedTuple):
    """What the net needs to know of a layer type before building one."""

    name: str
    module: type[nnx.Module] | None  # None for feeds: the caller gives their tops
    bottoms: tuple[int, int | None]
    tops: tuple[int, int | None]
    auto_tops: bool = False  # a missing top is made, as for losses (AutoTopBlobs)
    equal_counts: bool = False  # as many tops as bottoms (EqualNumBottomTopBlobs)
    is_loss: bool = False  # top 0 has loss_weight 1 unless the file says otherwise
    random: bool = False  # called with key=
    no_gradient: tuple[int, ...] = ()  # bottoms that refuse a gradient, like labels
    in_place: bool = True  # a top may have the name of bottom 0
    host: bool = False  # calls the host, and is built with slot=
    file: str = ""  # where a user's own type is from; "" for ours


_types: dict[str, LayerType] = {}
_Module = TypeVar("_Module", bound=type[nnx.Module])


def register(
    name: str,
    *,
    bottoms: Counts,
    tops: Counts,
    auto_tops: bool = False,
    equal_counts: bool = False,
    is_loss: bool = False,
    random: bool = False,
    no_gradient: tuple[int, ...] = (),
    in_place: bool = True,
    host: bool = False,
    replace: bool = False,
) -> Callable[[_Module], _Module]:
    """Returns a class decorator that files an nnx module as layer type `name`.

    The module is built as `module(layer, bottom_shapes, phase, rngs)`:
      layer: LayerParameter; its own xxx_param message holds the settings.
      bottom_shapes: one Shape per bottom.
      phase: caffe_pb2.TRAIN or caffe_pb2.TEST.
      rngs: nnx.Rngs; `rngs.params()` gives a key for each filler.
    and called as `module(*bottoms)`, with `key=` too if `random`, giving one array or
    a tuple of arrays, one per top. Learned blobs are nnx.Param attributes, blobs that
    forward passes update nnx.BatchStat attributes; the class attribute `blobs` lists
    the attribute names in Caffe's order. An attribute that the settings leave out
    (a bias) is None. `LayerError` says what the layer refuses.

    With `host`, the module is built with `slot=` too: a spec.Slot that is the same one
    whenever the net is built anew, for what must happen once.

    A user's own types are filed in the same way. A file that is run again replaces what
    it filed before; with `replace` a type also takes the place of any other.

    Raises:
      LayerError: of a user's own type: the name is taken.
    """

    def add(module: _Module) -> _Module:
        file = _users_file(module)
        _check_free(name, file, replace)
        _types[name] = LayerType(
            name,
            module,
            _range(bottoms),
            _range(tops),
            auto_tops,
            equal_counts,
            is_loss,
            random,
            no_gradient,
            in_place,
            host,
            file,
        )
        return module

    return add


def register_feed(name: str, *, tops: Counts) -> None:
    """Files a layer type whose tops the caller of the net provides."""
    assert name not in _types, name
    _types[name] = LayerType(name, None, (0, 0), _range(tops), in_place=False)


def lookup(name: str) -> LayerType | None:
    """Returns the layer type filed under Caffe's type string, or None."""
    return _types.get(name)


def layer_types() -> tuple[str, ...]:
    """Returns all known type strings, sorted."""
    return tuple(sorted(_types))


def _users_file(module: type[nnx.Module]) -> str:
    """Returns the file that defines a class, "" for one of this package."""
    if module.__module__.startswith(f"{__name__.partition('.')[0]}."):
        return ""
    home = sys.modules.get(module.__module__)
    return getattr(home, "__file__", None) or module.__module__


def _check_free(name: str, file: str, replace: bool) -> None:
    taken = _types.get(name)
    if taken is None or replace:
        return
    assert file, name
    if taken.file != file:
        raise LayerError(
            f'layer type "{name}" is '
            + (f"defined in {taken.file}" if taken.file else "one of Caffe's own"),
            "another name, or replace=True to take its place",
        )


def _range(counts: Counts) -> tuple[int, int | None]:
    return (counts, counts) if isinstance(counts, int) else counts
