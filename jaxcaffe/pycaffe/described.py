"""What a pycaffe net tells about itself: its layers, blobs and how they hang together.

Follows the properties of caffe/python/caffe/pycaffe.py and _caffe.cpp.
"""

from __future__ import annotations

from collections import OrderedDict

from jaxcaffe.pycaffe.blob import Blob, BlobVec
from jaxcaffe.pycaffe.layer import NetLayer
from jaxcaffe.pycaffe.state import State


class Described:
    """The properties of a Net that only look.

    Attributes:
      state: what the net holds, for this package's own use.
    """

    state: State

    @property
    def name(self) -> str:
        """The file's name for the net."""
        return self.state.graph.name

    @property
    def blobs(self) -> OrderedDict[str, Blob]:
        """Name -> blob, in the order in which layers make them."""
        return self.state.blobs

    @property
    def params(self) -> OrderedDict[str, BlobVec]:
        """Layer name -> its learned blobs, of layers that have any."""
        return self.state.params

    @property
    def layers(self) -> list[NetLayer]:
        """Every layer, splits included."""
        return self.state.layers

    @property
    def inputs(self) -> list[str]:
        """Tops of Input layers."""
        return self.state.inputs

    @property
    def outputs(self) -> list[str]:
        """Blobs that no layer uses, sorted by name."""
        return list(self.state.graph.outputs)

    @property
    def layer_dict(self) -> OrderedDict[str, NetLayer]:
        """Layer name -> layer."""
        return OrderedDict(zip(self._layer_names, self.layers, strict=True))

    @property
    def top_names(self) -> OrderedDict[str, list[str]]:
        """Layer name -> names of its tops."""
        return OrderedDict((n.layer.name, list(n.tops)) for n in self.state.graph.nodes)

    @property
    def bottom_names(self) -> OrderedDict[str, list[str]]:
        """Layer name -> names of its bottoms."""
        return OrderedDict(
            (n.layer.name, list(n.bottoms)) for n in self.state.graph.nodes
        )

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        """Blob name -> its share in the loss."""
        found = dict.fromkeys(self.state.graph.blobs, 0.0)
        for node in self.state.graph.nodes:
            found.update(
                {t: w for t, w in zip(node.tops, node.loss_weights, strict=True) if w}
            )
        return OrderedDict((name, found[name]) for name in self.state.graph.blobs)

    @property
    def _layer_names(self) -> list[str]:
        return [node.layer.name for node in self.state.graph.nodes]

    @property
    def _blob_names(self) -> list[str]:
        return list(self.state.graph.blobs)

    @property
    def _blobs(self) -> list[Blob]:
        return [self.blobs[name] for name in self.state.graph.blobs]

    @property
    def _blob_loss_weights(self) -> list[float]:
        return [self.blob_loss_weights[name] for name in self.state.graph.blobs]

    @property
    def _inputs(self) -> list[int]:
        return [self.state.graph.blobs.index(name) for name in self.inputs]

    @property
    def _outputs(self) -> list[int]:
        return [self.state.graph.blobs.index(name) for name in self.outputs]

    def _top_ids(self, index: int) -> list[int]:
        return [
            self.state.graph.blobs.index(t) for t in self.state.graph.nodes[index].tops
        ]

    def _bottom_ids(self, index: int) -> list[int]:
        return [
            self.state.graph.blobs.index(b)
            for b in self.state.graph.nodes[index].bottoms
        ]
