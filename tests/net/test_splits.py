from google.protobuf import text_format

from jaxcaffe.net.splits import insert_splits, insert_splits_with_origins
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import parse_net


def check(before, after):
    net, _ = parse_net(before, "n")
    kept = net.SerializeToString()
    expected, _ = parse_net(after, "n")
    result = insert_splits(net)
    assert text_format.MessageToString(result) == text_format.MessageToString(expected)
    assert insert_splits(result) == result
    assert net.SerializeToString() == kept


def test_insert_splits_with_one_use_each_changes_nothing():
    text = """
      layer { name: "data" type: "Data" top: "data" top: "label" }
      layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" }
      layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" }
    """
    check(text, text)


def test_insert_splits_numbers_the_tops_by_their_consumers():
    check(
        """
      layer { name: "data" type: "Data" top: "data" top: "label" }
      layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" }
      layer { name: "b" type: "InnerProduct" bottom: "data" top: "b" }
      layer { name: "l" type: "EuclideanLoss" bottom: "a" bottom: "label" top: "l" }
      layer { name: "m" type: "EuclideanLoss" bottom: "label" bottom: "b" top: "m" }
        """,
        """
      layer { name: "data" type: "Data" top: "data" top: "label" }
      layer { name: "data_data_0_split" type: "Split" bottom: "data"
        top: "data_data_0_split_0" top: "data_data_0_split_1" }
      layer { name: "label_data_1_split" type: "Split" bottom: "label"
        top: "label_data_1_split_0" top: "label_data_1_split_1" }
      layer { name: "a" type: "InnerProduct" bottom: "data_data_0_split_0" top: "a" }
      layer { name: "b" type: "InnerProduct" bottom: "data_data_0_split_1" top: "b" }
      layer { name: "l" type: "EuclideanLoss"
        bottom: "a" bottom: "label_data_1_split_0" top: "l" }
      layer { name: "m" type: "EuclideanLoss"
        bottom: "label_data_1_split_1" bottom: "b" top: "m" }
        """,
    )


def test_insert_splits_in_place_splits_the_last_write():
    check(
        """
      layer { name: "data" type: "Data" top: "x" }
      layer { name: "r" type: "ReLU" bottom: "x" top: "x" }
      layer { name: "e" type: "Eltwise" bottom: "x" bottom: "x" top: "e" }
        """,
        """
      layer { name: "data" type: "Data" top: "x" }
      layer { name: "r" type: "ReLU" bottom: "x" top: "x" }
      layer { name: "x_r_0_split" type: "Split" bottom: "x"
        top: "x_r_0_split_0" top: "x_r_0_split_1" }
      layer { name: "e" type: "Eltwise"
        bottom: "x_r_0_split_0" bottom: "x_r_0_split_1" top: "e" }
        """,
    )


def test_insert_splits_moves_a_loss_weight_to_top_0_and_keeps_the_others():
    check(
        """
      layer { name: "data" type: "Data" top: "x" }
      layer { name: "s" type: "Slice" bottom: "x" top: "a" top: "b"
        loss_weight: 0.5 loss_weight: 2 }
      layer { name: "p" type: "Power" bottom: "a" top: "p" }
        """,
        """
      layer { name: "data" type: "Data" top: "x" }
      layer { name: "s" type: "Slice" bottom: "x" top: "a" top: "b"
        loss_weight: 0 loss_weight: 2 }
      layer { name: "a_s_0_split" type: "Split" bottom: "a"
        top: "a_s_0_split_0" top: "a_s_0_split_1" loss_weight: 0.5 loss_weight: 0 }
      layer { name: "p" type: "Power" bottom: "a_s_0_split_1" top: "p" }
        """,
    )


def test_insert_splits_with_loss_weight_0_counts_no_use():
    text = """
      layer { name: "data" type: "Data" top: "x" }
      layer { name: "p" type: "Power" bottom: "x" top: "p" loss_weight: 0 }
      layer { name: "q" type: "Power" bottom: "p" top: "q" }
    """
    check(text, text)


def test_insert_splits_with_origins_points_a_split_at_its_maker():
    net, _ = parse_net(
        """
      layer { name: "data" type: "Data" top: "x" }
      layer { name: "p" type: "Power" bottom: "x" top: "p" }
      layer { name: "q" type: "Power" bottom: "x" top: "q" }
        """,
        "n",
    )
    result, origins = insert_splits_with_origins(net)
    assert [layer.type for layer in result.layer] == ["Data", "Split", "Power", "Power"]
    assert origins == (0, 0, 1, 2)


def test_insert_splits_of_no_layers_gives_no_layers():
    assert insert_splits(caffe_pb2.NetParameter()) == caffe_pb2.NetParameter()
