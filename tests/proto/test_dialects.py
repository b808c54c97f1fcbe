import pytest

from jaxcaffe.errors import PrototxtError
from jaxcaffe.layers import registry
from jaxcaffe.proto import caffe_pb2, dialects
from jaxcaffe.proto.text import parse_net, parse_solver

LAYER = caffe_pb2.LayerParameter.DESCRIPTOR
SOLVER = caffe_pb2.SolverParameter.DESCRIPTOR


def first(forks):
    return [fork.partition(" (")[0] for fork in forks]


@pytest.mark.parametrize(
    ("type_", "fork"),
    [
        ("PriorBox", "SSD"),
        ("Normalize", "SSD"),
        ("ROIPooling", "Faster R-CNN"),
        ("PSROIPooling", "R-FCN"),
        ("BoxAnnotatorOHEM", "R-FCN"),
        ("DenseImageData", "SegNet"),
        ("Upsample", "SegNet"),
        ("BN", "SegNet"),
        ("Interp", "PSPNet"),
        ("DenseCRF", "PSPNet"),
        ("ImageSegData", "PSPNet"),
        ("MultiStageMeanfield", "CRF-RNN"),
        ("SyncBN", "TSN"),
        ("VideoData", "SSD"),
        ("DepthwiseConvolution", "MobileNet's plug-ins"),
        ("ConvolutionDepthwise", "MobileNet's plug-ins"),
        ("ShuffleChannel", "ShuffleNet's plug-in"),
        ("Axpy", "NVCaffe"),
        ("DetectNetTransformation", "NVCaffe"),
        ("SpatialDropout", "Intel Caffe"),
        ("CompactBilinear", "LRCN"),
        ("Correlation", "FlowNet 2.0"),
        ("CenterLoss", "center loss"),
        ("LargeMarginInnerProduct", "L-Softmax"),
        ("MarginInnerProduct", "SphereFace"),
        ("Sparsify", "SSL"),
        ("ConvolutionReLU", "SkimCaffe"),
        ("FcRistretto", "Ristretto"),
        ("CConvolution", "Dynamic Network Surgery"),
        ("EvenDistLoss", "DeepBit"),
        ("ImResize", "real-time pose"),
        ("NdConvolution", "video-caffe"),
        ("Convolution3D", "C3D"),
    ],
)
def test_layer_type_forks_of_a_forks_type_names_it_first(type_, fork):
    assert first(dialects.layer_type_forks(type_))[0] == fork


def test_layer_type_forks_of_axpy_and_bn_name_all_of_theirs():
    assert "SENet's plug-in" in first(dialects.layer_type_forks("Axpy"))
    assert {"SegNet", "PSPNet", "TSN"} <= set(first(dialects.layer_type_forks("BN")))


def test_layer_type_forks_of_caffes_own_types_are_none():
    assert not [t for t in registry.layer_types() if dialects.layer_type_forks(t)]
    # Types of Caffe that may not be here yet.
    assert not dialects.layer_type_forks("Python")
    assert not dialects.layer_type_forks("NoSuchLayer")


@pytest.mark.parametrize(
    ("type_", "forks"),
    [
        ("gabor", ["Intel Caffe"]),
        ("diagonal", ["FlowNet 2.0", "Synopsys Caffe"]),
        ("gaussian_unitball", ["caffe-windows"]),
        ("gaussian", []),
        ("no_such_filler", []),
    ],
)
def test_filler_type_forks_are_those_that_have_it(type_, forks):
    assert first(dialects.filler_type_forks(type_)) == forks


def test_tables_say_nothing_of_what_the_schema_has():
    messages = {m.full_name: m for m in all_messages()}
    for name, fields in dialects._FIELD_TABLE.items():
        message = messages[f"caffe.{name}"]
        for field, numbers in fields.items():
            known = message.fields_by_name.get(field)
            assert known is None or known.number not in numbers, (name, field)
    enums = {e.full_name: e for m in messages.values() for e in m.enum_types}
    for name, values in dialects._ENUM_TABLE.items():
        enum = enums[f"caffe.{name}"]
        for value, numbers in values.items():
            known = enum.values_by_name.get(value)
            assert known is None or known.number not in numbers, (name, value)


def all_messages():
    waiting = list(caffe_pb2.DESCRIPTOR.message_types_by_name.values())
    for message in waiting:
        waiting.extend(message.nested_types)
    return waiting


def test_every_fork_of_the_table_is_used_and_known():
    types = (dialects._TYPE_TABLE, dialects._FILLER_TABLE)
    used = {key for table in types for keys in table.values() for key in keys}
    for table in (dialects._FIELD_TABLE, dialects._ENUM_TABLE):
        for names in table.values():
            for numbers in names.values():
                used |= {key for keys in numbers.values() for key in keys}
    assert used == set(dialects.FORKS)


def test_number_forks_of_a_number_with_two_meanings_tells_both():
    meanings = dict(dialects.number_forks(LAYER, 150))
    assert "NVCaffe" in first(meanings["cudnn_math_override"])
    assert first(meanings["correlation_param"])[0] == "FlowNet 2.0"
    assert dialects.number_forks(LAYER, 99999) == ()


def test_value_forks_by_name_and_by_number():
    enum = caffe_pb2.LossParameter.DESCRIPTOR.enum_types_by_name["NormalizationMode"]
    assert first(dialects.value_forks(enum, "PRE_FIXED"))[0] == "R-FCN"
    assert first(dialects.value_forks(enum, 4))[0] == "R-FCN"
    assert dialects.value_forks(enum, "VALID") == ()
    assert dialects.value_forks(enum, 1) == ()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (1, "it comes from A, a fork of Caffe"),
        (2, "it comes from A and B, forks of Caffe"),
        (4, "it comes from A, B, C and D, forks of Caffe"),
        (6, "it comes from A, B, C, D and 2 more forks of Caffe"),
    ],
)
def test_tell_forks_counts_what_it_does_not_name(count, text):
    assert dialects.tell_forks("ABCDEF"[:count]) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'layer {\n name: "p" type: "Permute"\n permute_param { order: 0 } }',
            r'^f:3: layer "p" \(Permute\): LayerParameter of Caffe 1\.0 has no field '
            r'"permute_param"; it comes from SSD \(weiliu89/caffe\), .* more forks of '
            r"Caffe\. Accepted: the fields of Caffe 1\.0\.$",
        ),
        (
            'layer { convolution_param {\n hole: 2 }\n name: "c" }',
            r'^f:2: layer "c" \(no type\): ConvolutionParameter .* "hole"; it comes '
            r"from DeepLab .*, a fork of Caffe\. Accepted: dilation\.$",
        ),
        (
            'layer { name: "l" loss_param { normalization: PRE_FIXED } }',
            r'layer "l" .*: normalization is PRE_FIXED, which Caffe 1\.0 lacks; it '
            r"comes from R-FCN .* Accepted: FULL, VALID, BATCH_SIZE, NONE\.$",
        ),
        (
            'layers { name: "i"\n type: INTERP }',
            r'^f:2: layer "i" \(INTERP\): type is INTERP, .* it comes from DeepLab',
        ),
        (
            'layers { name: "u" type: UNPOOLING }',
            r'^f:1: layer "u" \(UNPOOLING\): type is UNPOOLING, .* from DeconvNet',
        ),
        ("richness: 100", r"^f:1: NetParameter .* from Domain Guided Dropout"),
        (
            'layer { name: "d" type: "MemoryData" source_class: "x" }',
            r'layer "d" \(MemoryData\): LayerParameter .* from CaffeOnSpark',
        ),
        ("default_forward_type: FLOAT16", r"^f:1: NetParameter .* comes from NVCaffe"),
        (
            'layer { name: "d" transform_param { expand_param { prob: 0.5 } } }',
            r'layer "d" .*: TransformationParameter .* "expand_param"; it comes from',
        ),
        (
            'layer { name: "r" roi_pooling_param { pooled_w: 6 } }',
            r"it comes from Faster R-CNN \(rbgirshick/caffe-fast-rcnn\), R-FCN",
        ),
        ('layer { name: "b" bn_param { } }', "it comes from SegNet .*PSPNet"),
        # Not a fork's word: the brace of the message before is missing.
        (
            "layer { convolution_param { num_output: 3\n relu_param { } }",
            r"f:2: ConvolutionParameter has no field .* may lack its closing brace",
        ),
    ],
)
def test_parse_net_of_a_fork_names_layer_and_fork(text, message):
    with pytest.raises(PrototxtError, match=message):
        parse_net(text, "f")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base_lr: 1\nplateau_winsize: 3", r"^f:2: SolverParameter .* from SSD "),
        ("larc: true", r"SolverParameter .* from NVCaffe "),
        ("richness: 100", r"SolverParameter .* from TSN "),
        ("force_iter: 5", r"SolverParameter .* from SSL "),
        (
            "device_id: [0, 1]",
            r"^f:1: device_id is a list, where Caffe 1\.0 takes one value; it comes "
            r"from TSN \(yjxiong/caffe\) and Domain Guided Dropout",
        ),
        (
            "max_iter: [1, 2]",
            r"^f:1: max_iter is a list, where Caffe 1\.0 takes one value\. Accepted: a",
        ),
        ("warmup_iter: 5", r"SolverParameter .* from Intel Caffe "),
        (
            'net_param { layer { name: "x"\n interp_param { } } }',
            r'^f:2: layer "x" \(no type\): LayerParameter .* from PSPNet ',
        ),
    ],
)
def test_parse_solver_of_a_fork_names_the_fork(text, message):
    with pytest.raises(PrototxtError, match=message):
        parse_solver(text, "f")
