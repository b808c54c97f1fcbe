"""A net's layers as pycaffe lists them.

Follows the Layer of caffe/python/caffe/_caffe.cpp.
"""

from __future__ import annotations

from typing import Any

from jaxcaffe.errors import CaffeError, LayerError, PrototxtError
from jaxcaffe.host.instance import Instance
from jaxcaffe.host.layer import Layer
from jaxcaffe.layers import registry
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.pycaffe.blob import BlobVec
from jaxcaffe.spec import Node

__all__ = ["Layer", "NetLayer", "layer_type_list", "list_layer", "users_error"]


class NetLayer:
    """One layer of a net: its type and its learned blobs.

    Attributes:
      name: of the layer.
      type: Caffe's type string.
      blobs: its learned blobs, those of net.params.
    """

    def __init__(self, layer: caffe_pb2.LayerParameter, blobs: BlobVec) -> None:
        self.name = layer.name
        self.type = layer.type
        self.blobs = blobs

    def __repr__(self) -> str:
        return f'<layer "{self.name}" ({self.type}), {len(self.blobs)} blobs>'


class PythonNetLayer(NetLayer):
    """A Python layer of a net: the user's own object, with the net's learned blobs.

    Attributes and methods of the user's class are read, called and set as on the object
    itself: `net.layers[0].set_roidb(roidb)`.
    """

    def __init__(
        self, layer: caffe_pb2.LayerParameter, blobs: BlobVec, user: Layer
    ) -> None:
        object.__setattr__(self, "_user", user)
        for name, value in (
            ("name", layer.name),
            ("type", layer.type),
            ("blobs", blobs),
        ):
            object.__setattr__(self, name, value)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The user's class, as isinstance sees it."""
        return type(self._user)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._user, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._user, name, value)


def list_layer(node: Node, blobs: BlobVec) -> NetLayer:
    """Returns what net.layers shows of a layer."""
    instance = node.slot and node.slot.value
    if isinstance(instance, Instance):
        return PythonNetLayer(node.layer, blobs, instance.user)
    return NetLayer(node.layer, blobs)


def users_error(error: PrototxtError) -> Exception:
    """Returns the error to raise for one that came while a net was built.

    Scripts expect what their own Python layers raised; it gets ours as a note.
    """
    cause: BaseException | None = error.__cause__
    while isinstance(cause, LayerError) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, Exception) and not isinstance(cause, CaffeError):
        cause.add_note(str(error))
        return cause
    return error


def layer_type_list() -> list[str]:
    """Returns the type strings that layers may have, sorted.

    Source: caffe/include/caffe/layer_factory.hpp, LayerTypeList. Differs: none.
    """
    return list(registry.layer_types())
