"""Turns V1 layers (`layers { type: CONVOLUTION }`) into today's `layer`.

Follows Caffe's src/caffe/util/upgrade_proto.cpp (UpgradeNetDataTransformation,
UpgradeV1Net).
"""

from __future__ import annotations

from jaxcaffe.errors import PrototxtError, describe, plural
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import Source

_V1Layer = caffe_pb2.V1LayerParameter
_Layer = caffe_pb2.LayerParameter

V1_TYPES: dict[int, str] = {
    _V1Layer.NONE: "",
    _V1Layer.ABSVAL: "AbsVal",
    _V1Layer.ACCURACY: "Accuracy",
    _V1Layer.ARGMAX: "ArgMax",
    _V1Layer.BNLL: "BNLL",
    _V1Layer.CONCAT: "Concat",
    _V1Layer.CONTRASTIVE_LOSS: "ContrastiveLoss",
    _V1Layer.CONVOLUTION: "Convolution",
    _V1Layer.DATA: "Data",
    _V1Layer.DECONVOLUTION: "Deconvolution",
    _V1Layer.DROPOUT: "Dropout",
    _V1Layer.DUMMY_DATA: "DummyData",
    _V1Layer.ELTWISE: "Eltwise",
    _V1Layer.EUCLIDEAN_LOSS: "EuclideanLoss",
    _V1Layer.EXP: "Exp",
    _V1Layer.FLATTEN: "Flatten",
    _V1Layer.HDF5_DATA: "HDF5Data",
    _V1Layer.HDF5_OUTPUT: "HDF5Output",
    _V1Layer.HINGE_LOSS: "HingeLoss",
    _V1Layer.IM2COL: "Im2col",
    _V1Layer.IMAGE_DATA: "ImageData",
    _V1Layer.INFOGAIN_LOSS: "InfogainLoss",
    _V1Layer.INNER_PRODUCT: "InnerProduct",
    _V1Layer.LRN: "LRN",
    _V1Layer.MEMORY_DATA: "MemoryData",
    _V1Layer.MULTINOMIAL_LOGISTIC_LOSS: "MultinomialLogisticLoss",
    _V1Layer.MVN: "MVN",
    _V1Layer.POOLING: "Pooling",
    _V1Layer.POWER: "Power",
    _V1Layer.RELU: "ReLU",
    _V1Layer.SIGMOID: "Sigmoid",
    _V1Layer.SIGMOID_CROSS_ENTROPY_LOSS: "SigmoidCrossEntropyLoss",
    _V1Layer.SILENCE: "Silence",
    _V1Layer.SLICE: "Slice",
    _V1Layer.SOFTMAX: "Softmax",
    _V1Layer.SOFTMAX_LOSS: "SoftmaxWithLoss",
    _V1Layer.SPLIT: "Split",
    _V1Layer.TANH: "TanH",
    _V1Layer.THRESHOLD: "Threshold",
    _V1Layer.WINDOW_DATA: "WindowData",
}
"""V1 type number -> today's type name."""

_TRANSFORMED = {
    _V1Layer.DATA: "data_param",
    _V1Layer.IMAGE_DATA: "image_data_param",
    _V1Layer.WINDOW_DATA: "window_data_param",
}
_TRANSFORM_FIELDS = ("scale", "mean_file", "crop_size", "mirror")

# Repeated V1 fields whose i-th value belongs to the i-th `param` of today.
_PARAM_FIELDS = {
    "param": "name",
    "blob_share_mode": "share_mode",
    "blobs_lr": "lr_mult",
    "weight_decay": "decay_mult",
}


def needs_transform_upgrade(net: caffe_pb2.NetParameter) -> bool:
    """Tells whether a V1 data layer has transform fields in its own message."""
    return any(
        getattr(layers, _TRANSFORMED[layers.type]).HasField(field)
        for layers in net.layers
        if layers.type in _TRANSFORMED
        for field in _TRANSFORM_FIELDS
    )


def upgrade_transform(net: caffe_pb2.NetParameter) -> caffe_pb2.NetParameter:
    """Returns the net with scale, mean_file, crop_size, mirror in transform_param.

    Every Data, ImageData and WindowData layer gains a transform_param and its own
    message, empty ones too.

    Source: upgrade_proto.cpp, UpgradeNetDataTransformation. Differs: none.
    """
    upgraded = caffe_pb2.NetParameter()
    upgraded.CopyFrom(net)
    for layers in upgraded.layers:
        if layers.type not in _TRANSFORMED:
            continue
        data_param = getattr(layers, _TRANSFORMED[layers.type])
        data_param.SetInParent()
        layers.transform_param.SetInParent()
        for field in _TRANSFORM_FIELDS:
            if data_param.HasField(field):
                setattr(layers.transform_param, field, getattr(data_param, field))
                data_param.ClearField(field)
    return upgraded


def needs_v1_upgrade(net: caffe_pb2.NetParameter) -> bool:
    """Tells whether a net has `layers`."""
    return len(net.layers) > 0


def upgrade_v1(
    net: caffe_pb2.NetParameter, source: Source | None = None
) -> tuple[caffe_pb2.NetParameter, tuple[str, ...]]:
    """Returns the net with `layer` in place of `layers`, and what was left out.

    Args:
      net: of V1 layers; stays as it is.
      source: where the layers were written, for errors.

    Returns:
      The net of today, and one line per V0 layer left inside a V1 layer.

    Raises:
      PrototxtError: the net has both `layers` and `layer`.

    Source: upgrade_proto.cpp, UpgradeV1Net and UpgradeV1LayerParameter. Differs: none.
    """
    if len(net.layer) > 0:
        problem = (
            f"the net has {plural(len(net.layers), 'layer')} in the old form `layers` "
            f"and {len(net.layer)} in the form `layer`"
        )
        accepted = (
            'only layer { type: "Convolution" }, or only layers { type: CONVOLUTION }'
        )
        where = source.locate(net.layers[0].name) if source else ""
        raise PrototxtError(describe(where, problem, accepted))
    upgraded = caffe_pb2.NetParameter()
    for descriptor, value in net.ListFields():
        if descriptor.name == "layers":
            continue
        if descriptor.is_repeated:
            getattr(upgraded, descriptor.name).extend(value)
        elif descriptor.message_type is not None:
            getattr(upgraded, descriptor.name).CopyFrom(value)
        else:
            setattr(upgraded, descriptor.name, value)
    problems: list[str] = []
    for index, layers in enumerate(net.layers):
        _upgrade_layer(layers, upgraded.layer.add())
        if layers.HasField("layer"):
            problems.append("Input NetParameter has V0 layer -- ignoring.")
            problems.append(f"Upgrade of input layer {index} failed.")
    return upgraded, tuple(problems)


def _upgrade_layer(
    v1: caffe_pb2.V1LayerParameter, layer: caffe_pb2.LayerParameter
) -> None:
    """Fills an empty layer; all but types and params keep their names."""
    for descriptor, value in v1.ListFields():
        field = descriptor.name
        if field == "type":
            layer.type = V1_TYPES[value]
        elif field in _PARAM_FIELDS:
            while len(layer.param) < len(value):
                layer.param.add()
            for index, item in enumerate(value):
                setattr(layer.param[index], _PARAM_FIELDS[field], item)
        elif field == "layer":
            continue
        elif descriptor.is_repeated:
            getattr(layer, field).extend(value)
        elif descriptor.message_type is not None:
            getattr(layer, field).CopyFrom(value)
        else:
            setattr(layer, field, value)
