import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import format_message, parse_message

REPO = Path(__file__).parents[2]
SCHEMA = "jaxcaffe/proto/caffe.proto"
DEPTH = 3  # of random messages

# What Caffe files on disk hold, from many years of them.
NUMBERS = [
    ("NetParameter", "name", 1),
    ("NetParameter", "layers", 2),
    ("NetParameter", "input", 3),
    ("NetParameter", "input_dim", 4),
    ("NetParameter", "input_shape", 8),
    ("NetParameter", "layer", 100),
    ("LayerParameter", "name", 1),
    ("LayerParameter", "type", 2),
    ("LayerParameter", "blobs", 7),
    ("LayerParameter", "include", 8),
    ("LayerParameter", "transform_param", 100),
    ("LayerParameter", "convolution_param", 106),
    ("LayerParameter", "data_param", 107),
    ("LayerParameter", "inner_product_param", 117),
    ("LayerParameter", "batch_norm_param", 139),
    ("LayerParameter", "scale_param", 142),
    ("LayerParameter", "swish_param", 147),
    ("LayerParameter", "clip_param", 148),
    ("V1LayerParameter", "name", 4),
    ("V1LayerParameter", "type", 5),
    ("V1LayerParameter", "blobs", 6),
    ("V1LayerParameter", "param", 1001),
    ("BlobProto", "data", 5),
    ("BlobProto", "shape", 7),
    ("BlobProto", "double_data", 8),
    ("Datum", "data", 4),
    ("Datum", "label", 5),
    ("Datum", "encoded", 7),
    ("SolverParameter", "base_lr", 5),
    ("SolverParameter", "solver_type", 30),
    ("SolverParameter", "type", 40),
    ("SolverState", "iter", 1),
    ("SolverState", "history", 3),
]
ROUND_TRIPPED = [
    caffe_pb2.NetParameter,
    caffe_pb2.LayerParameter,
    caffe_pb2.V1LayerParameter,
    caffe_pb2.V0LayerParameter,
    caffe_pb2.SolverParameter,
    caffe_pb2.SolverState,
    caffe_pb2.BlobProto,
    caffe_pb2.Datum,
]


def test_generated_module_regenerated_is_the_committed_one(tmp_path):
    arguments = ["-I.", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", *arguments, SCHEMA],
        cwd=REPO,
        check=True,
    )
    for name in ("caffe_pb2.py", "caffe_pb2.pyi"):
        made = (tmp_path / "jaxcaffe" / "proto" / name).read_bytes()
        assert made == (REPO / "jaxcaffe" / "proto" / name).read_bytes(), name


@pytest.mark.parametrize(("message", "field", "number"), NUMBERS)
def test_field_of_caffe_has_its_number(message, field, number):
    descriptor = getattr(caffe_pb2, message).DESCRIPTOR
    assert descriptor.fields_by_name[field].number == number


def test_weights_are_packed_floats():
    blob = caffe_pb2.BlobProto(data=[1.0, 2.0])
    assert blob.SerializeToString()[:2] == bytes([5 << 3 | 2, 8])


def test_layer_numbers_of_forks_are_free():
    # Weights written by forks use these; reading them as our fields would be wrong.
    used = {f.number for f in caffe_pb2.LayerParameter.DESCRIPTOR.fields}
    assert not used & set(range(149, 10000))


@pytest.mark.parametrize("type_", ROUND_TRIPPED, ids=lambda t: t.DESCRIPTOR.name)
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_random_message_survives_text_and_wire(type_, data):
    message = data.draw(_messages(type_.DESCRIPTOR, DEPTH))
    wire = type_.FromString(message.SerializePartialToString())
    text = type_()
    if message.ListFields():  # a text that says nothing is refused
        parse_message(format_message(message), text, "random")
    assert wire.SerializePartialToString() == message.SerializePartialToString()
    assert text.SerializePartialToString() == message.SerializePartialToString()


@st.composite
def _messages(draw, descriptor, depth):
    message = getattr(caffe_pb2, descriptor.name)()
    fields = [f for f in descriptor.fields if depth or f.message_type is None]
    some = st.lists(st.sampled_from(fields), max_size=5, unique=True)
    chosen = draw(some) if fields else []
    for field in chosen + [f for f in fields if f.is_required and f not in chosen]:
        if field.message_type is not None:
            inner = draw(_messages(field.message_type, depth - 1))
            if field.is_repeated:
                getattr(message, field.name).append(inner)
            else:
                getattr(message, field.name).CopyFrom(inner)
        elif field.is_repeated:
            values = draw(st.lists(_scalars(field), max_size=3))
            getattr(message, field.name).extend(values)
        else:
            setattr(message, field.name, draw(_scalars(field)))
    return message


def _scalars(field):
    if field.enum_type is not None:
        return st.sampled_from([v.number for v in field.enum_type.values])
    return {
        FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
        FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
        FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
        FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
        FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=32, allow_nan=False),
        FieldDescriptor.CPPTYPE_DOUBLE: st.floats(allow_nan=False),
        FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
        FieldDescriptor.CPPTYPE_STRING: (
            st.binary(max_size=8)
            if field.type == FieldDescriptor.TYPE_BYTES
            else st.text(max_size=8)
        ),
    }[field.cpp_type]
