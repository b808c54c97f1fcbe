"""Turns V0 layers (`layers { layer { ... } }`) into V1 layers, padding layers folded.

Follows Caffe's src/caffe/util/upgrade_proto.cpp (UpgradeV0Net and what it calls).
"""

from __future__ import annotations

from typing import Any

from jaxcaffe.errors import PrototxtError, describe_layer, nearest, plural
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import Source

_V1Layer = caffe_pb2.V1LayerParameter

_TYPES = {
    "accuracy": _V1Layer.ACCURACY,
    "bnll": _V1Layer.BNLL,
    "concat": _V1Layer.CONCAT,
    "conv": _V1Layer.CONVOLUTION,
    "data": _V1Layer.DATA,
    "dropout": _V1Layer.DROPOUT,
    "euclidean_loss": _V1Layer.EUCLIDEAN_LOSS,
    "flatten": _V1Layer.FLATTEN,
    "hdf5_data": _V1Layer.HDF5_DATA,
    "hdf5_output": _V1Layer.HDF5_OUTPUT,
    "im2col": _V1Layer.IM2COL,
    "images": _V1Layer.IMAGE_DATA,
    "infogain_loss": _V1Layer.INFOGAIN_LOSS,
    "innerproduct": _V1Layer.INNER_PRODUCT,
    "lrn": _V1Layer.LRN,
    "multinomial_logistic_loss": _V1Layer.MULTINOMIAL_LOGISTIC_LOSS,
    "pool": _V1Layer.POOLING,
    "relu": _V1Layer.RELU,
    "sigmoid": _V1Layer.SIGMOID,
    "softmax": _V1Layer.SOFTMAX,
    "softmax_loss": _V1Layer.SOFTMAX_LOSS,
    "split": _V1Layer.SPLIT,
    "tanh": _V1Layer.TANH,
    "window_data": _V1Layer.WINDOW_DATA,
}

# For each V0 field, where its value goes by the layer's V0 type; "*" is any type.
# The order is that of Caffe's checks, hence of its messages.
_FIELDS: dict[str, dict[str, str]] = {
    "num_output": {
        "conv": "convolution_param.num_output",
        "innerproduct": "inner_product_param.num_output",
    },
    "biasterm": {
        "conv": "convolution_param.bias_term",
        "innerproduct": "inner_product_param.bias_term",
    },
    "weight_filler": {
        "conv": "convolution_param.weight_filler",
        "innerproduct": "inner_product_param.weight_filler",
    },
    "bias_filler": {
        "conv": "convolution_param.bias_filler",
        "innerproduct": "inner_product_param.bias_filler",
    },
    "pad": {"conv": "convolution_param.pad", "pool": "pooling_param.pad"},
    "kernelsize": {
        "conv": "convolution_param.kernel_size",
        "pool": "pooling_param.kernel_size",
    },
    "group": {"conv": "convolution_param.group"},
    "stride": {"conv": "convolution_param.stride", "pool": "pooling_param.stride"},
    "pool": {"pool": "pooling_param.pool"},
    "dropout_ratio": {"dropout": "dropout_param.dropout_ratio"},
    "local_size": {"lrn": "lrn_param.local_size"},
    "alpha": {"lrn": "lrn_param.alpha"},
    "beta": {"lrn": "lrn_param.beta"},
    "k": {"lrn": "lrn_param.k"},
    "source": {
        "data": "data_param.source",
        "hdf5_data": "hdf5_data_param.source",
        "images": "image_data_param.source",
        "window_data": "window_data_param.source",
        "infogain_loss": "infogain_loss_param.source",
    },
    "scale": {"*": "transform_param.scale"},
    "meanfile": {"*": "transform_param.mean_file"},
    "batchsize": {
        "data": "data_param.batch_size",
        "hdf5_data": "hdf5_data_param.batch_size",
        "images": "image_data_param.batch_size",
        "window_data": "window_data_param.batch_size",
    },
    "cropsize": {"*": "transform_param.crop_size"},
    "mirror": {"*": "transform_param.mirror"},
    "rand_skip": {
        "data": "data_param.rand_skip",
        "images": "image_data_param.rand_skip",
    },
    "shuffle_images": {"images": "image_data_param.shuffle"},
    "new_height": {"images": "image_data_param.new_height"},
    "new_width": {"images": "image_data_param.new_width"},
    "concat_dim": {"concat": "concat_param.concat_dim"},
    "det_fg_threshold": {"window_data": "window_data_param.fg_threshold"},
    "det_bg_threshold": {"window_data": "window_data_param.bg_threshold"},
    "det_fg_fraction": {"window_data": "window_data_param.fg_fraction"},
    "det_context_pad": {"window_data": "window_data_param.context_pad"},
    "det_crop_mode": {"window_data": "window_data_param.crop_mode"},
    "hdf5_output_param": {"hdf5_output": "hdf5_output_param"},
}
_PADDED_TYPES = ("conv", "pool")


def needs_v0_upgrade(net: caffe_pb2.NetParameter) -> bool:
    """Tells whether a net has a V0 layer."""
    return any(layers.HasField("layer") for layers in net.layers)


def upgrade_v0(
    net: caffe_pb2.NetParameter, source: Source | None = None
) -> tuple[caffe_pb2.NetParameter, tuple[str, ...]]:
    """Returns the net with V1 layers, and what had to be left out.

    Of the net itself only name, inputs with input_dim and force_backward live on, as
    in Caffe. A field that a layer's type has no use for is left out and told.

    Args:
      net: of V0 layers; stays as it is.
      source: where the layers were written, for errors.

    Returns:
      The V1 net, and one line per field left out, in Caffe's words.

    Raises:
      PrototxtError: an unknown layer type, a bottom that no layer before makes, a
        padding layer before something else than a single-input conv or pool.

    Source: upgrade_proto.cpp, UpgradeV0Net. Differs: none.
    """
    upgraded = caffe_pb2.NetParameter()
    problems: list[str] = []
    if net.HasField("name"):
        upgraded.name = net.name
    for layers in _fold_padding(net, source).layers:
        problems += _upgrade_layer(layers, upgraded.layers.add(), source)
    upgraded.input.extend(net.input)
    upgraded.input_dim.extend(net.input_dim)
    if net.HasField("force_backward"):
        upgraded.force_backward = net.force_backward
    return upgraded, tuple(problems)


def _fold_padding(
    net: caffe_pb2.NetParameter, source: Source | None
) -> caffe_pb2.NetParameter:
    """Drops padding layers; the conv or pool above each takes its pad and bottom.

    Raises:
      PrototxtError: as `upgrade_v0`.

    Source: upgrade_proto.cpp, UpgradeV0PaddingLayers.
    """
    folded = caffe_pb2.NetParameter()
    made_by: dict[str, caffe_pb2.V1LayerParameter | None] = dict.fromkeys(net.input)
    for layers in net.layers:
        type_ = layers.layer.type
        kept = None
        if type_ != "padding":
            kept = folded.layers.add()
            kept.CopyFrom(layers)
        for index, bottom in enumerate(layers.bottom):
            if bottom not in made_by:
                problem = f'bottom "{bottom}" is made by no layer before it'
                raise _error(source, layers, problem, nearest(bottom, made_by))
            padding = made_by[bottom]
            if padding is None or padding.layer.type != "padding":
                continue
            _check_padding(padding, layers, source)
            assert kept is not None  # a padded layer is no padding layer
            kept.layer.pad = padding.layer.pad
            kept.bottom[index] = padding.bottom[0]
        for top in layers.top:
            made_by[top] = layers
    return folded


def _check_padding(
    padding: caffe_pb2.V1LayerParameter,
    above: caffe_pb2.V1LayerParameter,
    source: Source | None,
) -> None:
    name = padding.layer.name
    if above.layer.type not in _PADDED_TYPES:
        problem = f'has the padding layer "{name}" as bottom'
        raise _error(source, above, problem, "padding only below conv or pool")
    if len(above.bottom) != 1:
        bottoms = plural(len(above.bottom), "bottom")
        problem = f'has {bottoms}, one from padding layer "{name}"'
        raise _error(source, above, problem, "1 bottom")
    if len(padding.bottom) != 1 or len(padding.top) != 1:
        problem = (
            f"has {plural(len(padding.bottom), 'bottom')} and "
            f"{plural(len(padding.top), 'top')}"
        )
        raise _error(source, padding, problem, "1 bottom, 1 top")


def _upgrade_layer(
    v0: caffe_pb2.V1LayerParameter,
    v1: caffe_pb2.V1LayerParameter,
    source: Source | None,
) -> list[str]:
    """Fills an empty V1 layer. Source: UpgradeV0LayerParameter."""
    v1.bottom.extend(v0.bottom)
    v1.top.extend(v0.top)
    if not v0.HasField("layer"):
        return []
    layer = v0.layer
    if layer.HasField("name"):
        v1.name = layer.name
    if layer.HasField("type"):
        if layer.type not in _TYPES:
            problem = "is of no V0 type"
            raise _error(source, v0, problem, nearest(layer.type, [*_TYPES, "padding"]))
        v1.type = _TYPES[layer.type]
    v1.blobs.extend(layer.blobs)
    v1.blobs_lr.extend(layer.blobs_lr)
    v1.weight_decay.extend(layer.weight_decay)
    problems = []
    for field, targets in _FIELDS.items():
        if not layer.HasField(field):
            continue
        target = targets.get("*") or targets.get(layer.type)
        if target is None:
            told = "shuffle" if field == "shuffle_images" else field
            problems.append(f"Unknown parameter {told} for layer type {layer.type}")
        else:
            _assign(v1, target, getattr(layer, field))
    return problems


def _assign(layer: Any, target: str, value: Any) -> None:
    """Sets, copies or appends `value` at a dotted path of fields."""
    *path, field = target.split(".")
    message = layer
    for step in path:
        message = getattr(message, step)
    descriptor = message.DESCRIPTOR.fields_by_name[field]
    if descriptor.is_repeated:
        getattr(message, field).append(value)
    elif descriptor.message_type is not None:
        getattr(message, field).CopyFrom(value)
    else:
        setattr(message, field, value)


def _error(
    source: Source | None,
    layers: caffe_pb2.V1LayerParameter,
    problem: str,
    accepted: str,
) -> PrototxtError:
    layer = layers.layer
    where = source.locate(layer.name) if source else ""
    return PrototxtError(
        describe_layer(where, layer.name, layer.type, problem, accepted)
    )
