import pytest

from jaxcaffe.errors import SnapshotError
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.binary import read_caffemodel
from jaxcaffe.proto.unknown import (
    find_unknown,
    refuse_unknown,
    tell_unknown_settings,
)


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def add(message, number, payload=b"\x08\x01"):
    """Adds a field, as bytes, that the schema need not have."""
    head = varint(number << 3 | 2) + varint(len(payload))
    message.MergeFromString(head + payload)


def add_number(message, number, value):
    message.MergeFromString(varint(number << 3) + varint(value))


def net_of(**layer):
    net = caffe_pb2.NetParameter()
    return net, net.layer.add(**layer)


def whats(message):
    return [unknown.what for unknown in find_unknown(message)]


def test_find_unknown_of_a_net_of_today_finds_nothing(golden):
    for file in golden.glob("*_upgraded.caffemodel"):
        net = caffe_pb2.NetParameter()
        net.ParseFromString(file.read_bytes())
        assert list(find_unknown(net)) == []


def test_find_unknown_takes_the_fork_that_has_the_layers_type():
    net, layer = net_of(name="p", type="Permute")
    add(layer, 202)
    [found] = find_unknown(net)
    assert found.layer == ("p", "Permute")
    assert '"permute_param": it comes from SSD' in found.what
    assert "wordvec_param" not in found.what
    layer.type = "Wordvec"
    assert '"wordvec_param": it comes from ApolloCaffe' in whats(net)[0]
    assert "permute_param" not in whats(net)[0]


def test_find_unknown_looks_into_blobs_and_nested_messages():
    net, layer = net_of(name="c", type="Convolution")
    add(layer.blobs.add(), 12)
    add_number(layer.convolution_param, 4000, 7)
    blob, number = sorted(whats(net))
    assert blob.startswith("BlobProto of Caffe 1.0 has no field 12; it may be ")
    assert '"raw_data": it comes from NVCaffe' in blob
    assert number == (
        "ConvolutionParameter of Caffe 1.0 has no field 4000, and no fork that is "
        "known here has one"
    )


def test_find_unknown_of_an_enum_value_names_the_field():
    net, layer = net_of(name="l", type="SoftmaxWithLoss")
    add_number(layer.loss_param, 3, 4)
    [what] = whats(net)
    assert what.startswith("normalization is 4, which Caffe 1.0 lacks; it comes from R")


def test_find_unknown_of_a_value_of_another_type_says_so():
    net, layer = net_of(name="l", type="Data")
    add(layer.data_param, 4, b"abc")  # batch_size
    assert whats(net) == ["batch_size of DataParameter holds a value of another type"]


def test_find_unknown_of_old_layers_names_them():
    net = caffe_pb2.NetParameter()
    layers = net.layers.add(name="r", type=caffe_pb2.V1LayerParameter.RELU)
    add(layers, 43)
    add(net.layers.add(layer={"name": "v0", "type": "conv"}).layer, 4000)
    assert [u.layer for u in find_unknown(net)] == [("r", "RELU"), ("v0", "conv")]


def test_refuse_unknown_names_file_layer_and_fork():
    net, layer = net_of(name="p", type="PriorBox")
    refuse_unknown(net, "f", SnapshotError)
    add(layer, 203)
    message = r'^f: layer "p" \(PriorBox\): LayerParameter .* 203; it may be "prior_box'
    with pytest.raises(SnapshotError, match=message):
        refuse_unknown(net, "f", SnapshotError)


def test_refuse_unknown_outside_layers_names_the_message():
    state = caffe_pb2.SolverState()
    add_number(state, 5, 1)
    message = r'^f: SolverState .* no field 5; it may be "minimum_loss": it comes from'
    with pytest.raises(SnapshotError, match=message):
        refuse_unknown(state, "f", SnapshotError)


def test_tell_unknown_settings_passes_over_blobs():
    net, layer = net_of(name="c", type="Convolution")
    add(layer.blobs.add(), 12)
    assert tell_unknown_settings(net, "f") == ""
    for index in range(7):
        add(net.layer.add(name=f"p{index}", type="Permute"), 202)
    told = tell_unknown_settings(net, "f")
    assert told.startswith('f: only blobs are taken; layers "p0" (Permute), "p1" (Per')
    assert '"p4" (Permute) and 2 more have settings' in told


def test_read_caffemodel_tells_of_a_forks_settings(tmp_path):
    net, layer = net_of(name="p", type="Permute")
    path = tmp_path / "w.caffemodel"
    path.write_bytes(net.SerializeToString())
    told = []
    read_caffemodel(path, told.append)
    assert told == []
    add(layer, 202)
    path.write_bytes(net.SerializeToString())
    assert read_caffemodel(path, told.append).layer[0].name == "p"
    assert [str(path) in line and "permute_param" in line for line in told] == [True]
