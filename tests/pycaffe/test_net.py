import os

import h5py
import jax
import numpy as np
import pytest

import jaxcaffe.pycaffe as caffe
from jaxcaffe.errors import CaffeError
from jaxcaffe.pycaffe import programs

NET = """
name: "small"
force_backward: true
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 2 dim: 3 dim: 5 dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3
    weight_filler { type: "gaussian" std: 0.5 } bias_filler { value: 1 } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "scale" type: "Scale" bottom: "ip" top: "scaled"
  scale_param { filler { value: 2 } } }
layer { name: "prob" type: "Softmax" bottom: "scaled" top: "prob" }
"""

FULLY_CONVOLUTIONAL = """
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 1 dim: 1 dim: 4 dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "xavier" } } }
"""

TRAINED = """
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 4 dim: 6 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 4 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss"
  loss_weight: 2 }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" }
"""


@pytest.fixture
def write(tmp_path):
    def write_net(text, name="net.prototxt"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write_net


@pytest.fixture
def net(write):
    caffe.set_random_seed(3)
    return caffe.Net(write(NET), caffe.TEST)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def fill(net):
    net.blobs["data"].data[...] = numbers(*net.blobs["data"].shape)


def test_net_lists_what_it_consists_of(net):
    assert net.name == "small"
    assert list(net.blobs) == ["data", "conv", "ip", "scaled", "prob"]
    assert list(net.params) == ["conv", "ip", "scale"]
    assert (net.inputs, net.outputs) == (["data"], ["prob"])
    assert net._layer_names == ["data", "conv", "relu", "ip", "scale", "prob"]
    assert [layer.type for layer in net.layers][:3] == ["Input", "Convolution", "ReLU"]
    assert net.layer_dict["ip"].blobs[0] is net.params["ip"][0]
    assert net.top_names["relu"] == net.bottom_names["relu"] == ["conv"]
    assert net._blobs[1] is net.blobs["conv"]
    assert (net._inputs, net._outputs) == ([0], [4])
    assert (net._top_ids(1), net._bottom_ids(1)) == ([1], [0])


def test_net_forward_computes_what_numpy_does(net):
    fill(net)
    out = net.forward()
    assert list(out) == ["prob"]
    weight, bias = (blob.data for blob in net.params["ip"])
    ip = net.blobs["conv"].data.reshape(2, -1) @ weight.T + bias
    np.testing.assert_allclose(net.blobs["ip"].data, ip, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(net.blobs["scaled"].data, 2 * ip, rtol=1e-5, atol=1e-5)
    exp = np.exp(2 * ip - np.max(2 * ip, axis=1, keepdims=True))
    prob = exp / exp.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(out["prob"], prob, rtol=1e-4, atol=1e-6)


def test_net_forward_takes_inputs_by_name(net):
    data = numbers(2, 3, 5, 4)
    given = net.forward(data=data)["prob"].copy()
    net.blobs["data"].data[...] = data
    np.testing.assert_array_equal(net.forward()["prob"], given)
    with pytest.raises(Exception, match="Input blob arguments do not match net inputs"):
        net.forward(date=data)
    with pytest.raises(Exception, match="not batch sized: data has 3 rows, the net 2"):
        net.forward(data=numbers(3, 3, 5, 4))


def test_net_forward_returns_further_blobs(net):
    assert set(net.forward(blobs=["conv", "ip"])) == {"prob", "conv", "ip"}


def test_net_weights_written_count_in_the_next_forward(net):
    fill(net)
    net.forward()
    net.params["scale"][0].data[...] = 0
    np.testing.assert_allclose(net.forward()["prob"], 1 / 3, rtol=1e-6)


def test_net_forward_from_a_layer_starts_with_the_blobs_as_they_are(net):
    fill(net)
    net.forward()
    net.blobs["ip"].data[...] = [[0, 0, 0], [1, 0, 0]]
    out = net.forward(start="scale")
    e = np.exp(2)
    np.testing.assert_allclose(out["prob"][1], np.array([e, 1, 1]) / (e + 2), rtol=1e-6)


def test_net_forward_to_a_layer_returns_its_tops_and_leaves_the_rest(net):
    fill(net)
    assert set(net.forward(end="conv")) == {"conv"}
    before_relu = net.blobs["conv"].data.copy()
    assert before_relu.min() < 0
    assert not net.blobs["prob"].data.any()
    net.forward(start="relu", end="relu")
    np.testing.assert_array_equal(net.blobs["conv"].data, np.maximum(before_relu, 0))


def test_net_forward_of_an_unknown_layer_names_the_nearest(net):
    with pytest.raises(ValueError, match=r'no layer is named "conv2"\. Accepted: conv'):
        net.forward(end="conv2")


def test_net_backward_agrees_with_differences(net):
    fill(net)
    net.forward()
    seed = numbers(2, 3, seed=1)
    net.blobs["prob"].diff[...] = seed
    net.backward()
    for blob, index in (
        (net.blobs["data"], (1, 2, 3, 1)),
        (net.params["conv"][0], (2, 1, 0, 2)),
        (net.params["ip"][1], (1,)),
    ):
        gradient = blob.diff[index]
        ends = []
        for step in (5e-3, -5e-3):
            blob.data[index] += step
            ends.append(float(np.vdot(net.forward()["prob"], seed)))
            blob.data[index] -= step
        assert gradient == pytest.approx((ends[0] - ends[1]) / 1e-2, rel=2e-2, abs=1e-4)


def test_net_backward_adds_up_gradients_of_params_but_not_of_blobs(net):
    fill(net)
    net.forward()
    net.blobs["prob"].diff[...] = numbers(2, 3, seed=1)
    net.backward()
    weight, data = net.params["ip"][0].diff.copy(), net.blobs["data"].diff.copy()
    assert np.abs(weight).max() > 0
    net.backward()
    np.testing.assert_allclose(net.params["ip"][0].diff, 2 * weight, rtol=1e-6)
    np.testing.assert_allclose(net.blobs["data"].diff, data, rtol=1e-6)
    kept = net.params["ip"][0].diff
    net.clear_param_diffs()
    assert not kept.any()


def test_net_backward_takes_diffs_by_name(net):
    fill(net)
    net.forward()
    seed = numbers(2, 3, seed=1)
    found = net.backward(diffs=["ip"], prob=seed)
    assert set(found) == {"data", "ip"}
    with pytest.raises(Exception, match="Top diff arguments do not match net outputs"):
        net.backward(ip=seed)
    with pytest.raises(Exception, match="Diff is not batch sized"):
        net.backward(prob=seed[:1])


def test_net_backward_between_layers_stops_there(net):
    fill(net)
    net.forward()
    net.blobs["ip"].diff[...] = 1
    assert set(net.backward(start="ip", end="ip")) == {"conv"}
    expected = np.broadcast_to(net.params["ip"][0].data.sum(axis=0), (2, 24))
    np.testing.assert_allclose(
        net.blobs["conv"].diff.reshape(2, -1), expected, rtol=1e-5
    )
    assert not net.blobs["data"].diff.any()
    assert not net.params["conv"][0].diff.any()


def test_net_backward_goes_through_values_written_after_forward(net):
    fill(net)
    net.forward()
    net.blobs["scaled"].data[...] = [[9, 0, 0], [0, 0, 0]]
    net.blobs["prob"].diff[...] = [[1, 0, 0], [1, 0, 0]]
    net.backward()
    diff = net.blobs["scaled"].diff
    assert abs(diff[0, 0]) < 1e-3
    np.testing.assert_allclose(diff[1], [2 / 9, -1 / 9, -1 / 9], rtol=1e-5)


def test_net_backward_after_new_weights_keeps_the_values_of_forward(net):
    fill(net)
    net.forward()
    values = {name: blob.data.copy() for name, blob in net.blobs.items()}
    net.params["ip"][0].data[...] *= 3
    net.blobs["prob"].diff[...] = np.arange(6).reshape(2, 3)
    net.backward()
    for name, value in values.items():
        np.testing.assert_array_equal(net.blobs[name].data, value)
    # Inner products go back through the weights of now, and the values of then.
    below = net.blobs["ip"].diff @ net.params["ip"][0].data
    found = net.blobs["conv"].diff.reshape(2, -1)
    mask = values["conv"].reshape(2, -1) > 0
    np.testing.assert_allclose(found, below * mask, rtol=1e-5, atol=1e-6)
    weight = net.blobs["ip"].diff.T @ values["conv"].reshape(2, -1)
    np.testing.assert_allclose(net.params["ip"][0].diff, weight, rtol=1e-5, atol=1e-6)


def test_net_blob_with_two_readers_is_one_memory_with_its_splits(write):
    text = """
    force_backward: true
    layer { name: "data" type: "Input" top: "data"
      input_param { shape { dim: 2 } } }
    layer { name: "exp" type: "Exp" bottom: "data" top: "exp" }
    layer { name: "square" type: "Power" bottom: "exp" top: "square"
      power_param { power: 2 } }
    layer { name: "cube" type: "Power" bottom: "exp" top: "cube"
      power_param { power: 3 } }
    """
    net = caffe.Net(write(text), caffe.TEST)
    net.forward()
    net.blobs["exp"].data[...] = [2, 3]
    assert net.blobs["exp_exp_0_split_1"].data.tolist() == [2, 3]
    net.blobs["square"].diff[...] = 1
    net.blobs["cube"].diff[...] = 1
    net.backward()
    # Values written are gone back through; those further on are as forward left them.
    np.testing.assert_allclose(net.blobs["exp"].diff, [4 + 12, 6 + 27], rtol=1e-6)
    assert net.blobs["square"].data.tolist() == [1, 1]
    found = net.forward(start="square")
    assert (found["square"].tolist(), found["cube"].tolist()) == ([4, 9], [8, 27])


def test_net_backward_through_several_passes_has_the_random_numbers_of_each(write):
    text = """
    force_backward: true
    layer { name: "d" type: "DummyData" top: "noise" dummy_data_param {
      shape { dim: 4 dim: 50 } data_filler { type: "gaussian" } } }
    layer { name: "ip" type: "InnerProduct" bottom: "noise" top: "ip"
      inner_product_param { num_output: 60 weight_filler { type: "xavier" } } }
    layer { name: "drop" type: "Dropout" bottom: "ip" top: "drop" }
    layer { name: "twice" type: "Power" bottom: "drop" top: "twice"
      power_param { scale: 2 } }
    """
    net = caffe.Net(write(text), caffe.TRAIN)
    net.forward()
    net.forward(end="ip")
    net.forward(start="twice")
    kept = net.blobs["drop"].data != 0
    net.blobs["twice"].diff[...] = 1
    net.backward()
    # The second pass has new noise, but the mask is that of the first.
    np.testing.assert_array_equal(net.blobs["ip"].diff, np.where(kept, 4, 0))
    np.testing.assert_allclose(
        net.params["ip"][0].diff,
        net.blobs["ip"].diff.T @ net.blobs["noise"].data,
        rtol=1e-4,
        atol=1e-4,
    )


def test_net_without_loss_or_force_backward_has_nothing_to_run_backward(write):
    net = caffe.Net(write(FULLY_CONVOLUTIONAL), caffe.TEST)
    net.forward()
    net.blobs["conv"].diff[...] = 1
    net.backward()
    assert not net.params["conv"][0].diff.any()


def test_net_loss_starts_the_backward_pass_with_its_weight(write):
    net = caffe.Net(write(TRAINED), caffe.TRAIN)
    assert net.blob_loss_weights["loss"] == 2
    assert net.blobs["loss"].diff == 2
    net.blobs["data"].data[...] = numbers(4, 6)
    net.blobs["label"].data[...] = [0, 1, 2, 1]
    net.forward()
    net.backward()
    scores = net.blobs["ip"].data
    prob = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    prob[np.arange(4), [0, 1, 2, 1]] -= 1
    expected = 2 / 4 * prob.T @ net.blobs["data"].data
    np.testing.assert_allclose(net.params["ip"][0].diff, expected, rtol=1e-4, atol=1e-6)
    # Nothing below "ip" learns, so its bottom gets no gradient.
    assert not net.blobs["data"].diff.any()


def test_net_one_program_for_both_ways_equals_two(write):
    nets = []
    for _ in range(2):
        caffe.set_random_seed(5)
        nets.append(caffe.Net(write(TRAINED), caffe.TRAIN))
        nets[-1].blobs["data"].data[...] = numbers(4, 6)
        nets[-1].blobs["label"].data[...] = [0, 1, 2, 1]
    loss = float(nets[0].run_forward_backward())
    nets[1].forward()
    nets[1].backward()
    assert loss == pytest.approx(2 * float(nets[1].blobs["loss"].data), rel=1e-6)
    for blob, other in zip(nets[0].params["ip"], nets[1].params["ip"], strict=True):
        np.testing.assert_allclose(blob.diff, other.diff, rtol=1e-5, atol=1e-7)
    for name in nets[0].blobs:
        ours, theirs = nets[0].blobs[name], nets[1].blobs[name]
        np.testing.assert_allclose(ours.data, theirs.data, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(ours.diff, theirs.diff, rtol=1e-5, atol=1e-6)


def test_net_reshape_follows_the_inputs(write):
    net = caffe.Net(write(FULLY_CONVOLUTIONAL), caffe.TEST)
    net.blobs["data"].reshape(2, 1, 6, 5)
    net.reshape()
    assert net.blobs["conv"].shape == (2, 2, 4, 3)
    net.blobs["data"].reshape(1, 1, 4, 4)
    net.blobs["data"].data[...] = 1
    weight = net.params["conv"][0].data
    found = net.forward()["conv"]
    np.testing.assert_allclose(found[0, :, 0, 0], weight.sum(axis=(1, 2, 3)), rtol=1e-5)


def test_net_param_in_another_shape_counts_by_its_values(net):
    fill(net)
    expected = net.forward()["prob"].copy()
    weight = net.params["ip"][0]
    values = weight.data.copy()
    weight.reshape(24, 3)
    assert weight.data.tolist() == values.reshape(24, 3).tolist()
    np.testing.assert_allclose(net.forward()["prob"], expected, rtol=1e-6)
    weight.reshape(2, 3)
    with pytest.raises(ValueError, match=r'"weight" of layer "ip" .* shapes of 72'):
        net.forward()


def test_net_reshape_that_weights_do_not_fit_is_refused(net):
    net.blobs["data"].reshape(2, 3, 6, 6)
    with pytest.raises(CaffeError, match='"weight" of layer "ip" has shape'):
        net.reshape()


def test_net_warm_forward_traces_nothing(net):
    fill(net)
    for _ in range(2):
        net.forward()
        net.blobs["ip"].data.sum()
    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        # A second trace would ask for the layers again.
        patch.setattr(
            "jaxcaffe.pycaffe.programs._run_layer",
            lambda *_: pytest.fail("the net was traced again"),
        )
        net.forward()
        net.blobs["ip"].data.sum()


def test_net_warm_forward_returns_the_blobs_that_are_read_and_no_others(net):
    fill(net)
    returned = []
    make = programs.make_forward

    def note(core, stretch, wanted):
        returned.append(tuple(wanted))
        return make(core, stretch, wanted)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "make_forward", note)
        for _ in range(3):
            net.forward()
            net.blobs["ip"].data.sum()
        made = ("conv", "ip", "scaled", "prob")
        # The outputs; everything when something else is asked for; then just that too.
        assert returned == [("prob",), made, ("ip", "prob")]
        for name in ("conv", "scaled"):
            net.blobs[name].data.sum()
            net.forward()
        # Whoever reads everything has one program, however he came there.
        net.blobs["conv"].data.sum()
        net.forward()
        assert returned[3:] == [("conv", "ip", "prob")]


def test_net_save_and_copy_from_in_both_formats(net, write, tmp_path):
    paths = [str(tmp_path / "a.caffemodel"), str(tmp_path / "a.h5")]
    net.save(paths[0])
    net.save_hdf5(paths[1])
    with h5py.File(paths[1]) as file:
        assert file["data/ip/0"].shape == (3, 24)
    for load in (
        lambda: caffe.Net(write(NET), caffe.TEST, weights=paths[0]),
        lambda: caffe.Net(write(NET), paths[0], caffe.TEST),
        lambda: caffe.Net(write(NET), caffe.TEST, 0, None, paths[1]),
    ):
        other = load()
        for layer, blobs in net.params.items():
            for blob, copy in zip(blobs, other.params[layer], strict=True):
                np.testing.assert_array_equal(blob.data, copy.data)
    other = caffe.Net(write(NET), caffe.TEST)
    other.load_hdf5(paths[1])
    np.testing.assert_array_equal(other.params["ip"][0].data, net.params["ip"][0].data)


def test_net_share_with_makes_one_memory(net, write):
    other = caffe.Net(write(NET), caffe.TEST)
    other.share_with(net)
    net.params["ip"][1].data[...] = 4
    assert other.params["ip"][1].data.tolist() == [4, 4, 4]
    fill(net)
    fill(other)
    np.testing.assert_array_equal(net.forward()["prob"], other.forward()["prob"])
    # Gradients stay apart.
    net.params["ip"][1].diff[...] = 1
    assert not other.params["ip"][1].diff.any()


def test_net_share_with_other_shapes_is_refused(net, write):
    text = NET.replace("num_output: 3", "num_output: 2")
    with pytest.raises(ValueError, match='"weight" of layer "ip" has shape'):
        caffe.Net(write(text), caffe.TEST).share_with(net)


def test_net_forward_all_runs_any_number_of_inputs(net):
    data = numbers(5, 3, 5, 4)
    found = net.forward_all(blobs=["ip"], data=data)
    assert {name: value.shape for name, value in found.items()} == {
        "prob": (5, 3),
        "ip": (5, 3),
    }
    np.testing.assert_allclose(
        found["prob"][2:4], net.forward(data=data[2:4])["prob"], rtol=1e-6
    )


def test_net_forward_backward_all_returns_values_and_diffs(net):
    data, seed = numbers(3, 3, 5, 4), numbers(3, 3, seed=1)
    values, diffs = net.forward_backward_all(diffs=["ip"], data=data, prob=seed)
    assert values["prob"].shape == (3, 3)
    assert diffs["data"].shape == (3, 3, 5, 4)
    assert diffs["ip"].shape == (3, 3)
    net.forward(data=data[:2])
    expected = net.backward(prob=seed[:2])["data"]
    np.testing.assert_allclose(diffs["data"][:2], expected, rtol=1e-5, atol=1e-7)


def test_net_callbacks_see_every_layer_and_may_change_blobs(net):
    fill(net)
    calls = []
    net.before_forward(lambda i: calls.append(("before", i)))
    net.after_forward(lambda i: calls.append(("after", i)))

    def silence(index):
        if net._layer_names[index] == "scale":
            net.blobs["scaled"].data[...] = 0

    net.after_forward(silence)
    np.testing.assert_allclose(net.forward()["prob"], 1 / 3, rtol=1e-6)
    assert calls == [(w, i) for i in range(6) for w in ("before", "after")]
    back = []
    net.before_backward(back.append)
    net.after_backward(back.append)
    net.blobs["prob"].diff[...] = numbers(2, 3)
    net.backward()
    assert back == [i for i in (5, 4, 3, 2, 1, 0) for _ in range(2)]
    assert net.blobs["data"].diff.any()


def test_net_level_and_stages_choose_layers(write):
    text = FULLY_CONVOLUTIONAL + (
        'layer { name: "a" type: "ReLU" bottom: "conv" top: "a" '
        'include { stage: "a" } }'
        'layer { name: "b" type: "ReLU" bottom: "conv" top: "b" '
        "include { min_level: 1 } }"
    )
    path = write(text)
    assert caffe.Net(path, caffe.TEST).outputs == ["conv"]
    assert caffe.Net(path, caffe.TEST, stages=["a"]).outputs == ["a"]
    assert caffe.Net(path, phase=caffe.TEST, level=1).outputs == ["b"]


def test_net_constant_dummy_data_is_filled_once_and_may_be_written(write):
    text = """
    layer { name: "d" type: "DummyData" top: "noise" top: "label" dummy_data_param {
      shape { dim: 3 } shape { dim: 3 }
      data_filler { type: "gaussian" } data_filler { value: 2 } } }
    layer { name: "sum" type: "Eltwise" bottom: "noise" bottom: "label" top: "sum" }
    """
    net = caffe.Net(write(text), caffe.TRAIN)
    assert net.blobs["label"].data.tolist() == [2, 2, 2]
    net.blobs["label"].data[...] = [5, 6, 7]
    first = net.forward()["sum"] - net.blobs["noise"].data
    np.testing.assert_allclose(first, [5, 6, 7], rtol=1e-5)
    noise = net.blobs["noise"].data.copy()
    net.forward()
    assert not np.array_equal(net.blobs["noise"].data, noise)


def test_net_memory_data_goes_round_the_arrays(write):
    text = """
    layer { name: "m" type: "MemoryData" top: "data" top: "label" memory_data_param {
      batch_size: 2 channels: 1 height: 1 width: 2 } }
    layer { name: "power" type: "Power" bottom: "data" top: "out"
      power_param { scale: 2 } }
    layer { name: "quiet" type: "Silence" bottom: "label" }
    """
    net = caffe.Net(write(text), caffe.TEST)
    with pytest.raises(RuntimeError, match=r"call net.set_input_arrays"):
        net.forward()
    data = np.arange(8, dtype=np.float32).reshape(4, 1, 1, 2)
    net.set_input_arrays(data, np.arange(4, dtype=np.float32))
    outs = [net.forward()["out"].ravel().tolist() for _ in range(3)]
    assert outs == [[0, 2, 4, 6], [8, 10, 12, 14], [0, 2, 4, 6]]
    assert net.blobs["label"].data.tolist() == [[[[0]]], [[[1]]]]
    for bad, message in (
        (data[:3], "multiple of batch size"),
        (data.astype(np.float64), "data array must be float32"),
        (data[:, :, :, ::-1], "data array must be C contiguous"),
        (np.zeros((4, 1, 1, 3), np.float32), "wrong width: 3, not 2"),
        (data[0], "data array must be 4-d"),
    ):
        with pytest.raises(RuntimeError, match=message):
            net.set_input_arrays(bad, np.zeros(len(bad), np.float32))


def test_net_set_input_arrays_needs_a_memory_data_layer(net):
    with pytest.raises(RuntimeError, match="MemoryDataLayer"):
        net.set_input_arrays(
            np.zeros((1, 1, 1, 1), np.float32), np.zeros(1, np.float32)
        )


def test_net_filter_gives_exact_shapes(write):
    text = """
    layer { name: "d" type: "Input" top: "data"
      input_param { shape { dim: 4 dim: 2 } } }
    layer { name: "s" type: "Input" top: "sel" input_param { shape { dim: 4 } } }
    layer { name: "f" type: "Filter" bottom: "data" bottom: "sel" top: "kept" }
    """
    net = caffe.Net(write(text), caffe.TEST)
    net.blobs["data"].data[...] = np.arange(8).reshape(4, 2)
    net.blobs["sel"].data[...] = [1, 0, 0, 1]
    assert net.forward()["kept"].tolist() == [[0, 1], [6, 7]]
    net.blobs["sel"].data[...] = [0, 1, 0, 0]
    assert net.forward()["kept"].tolist() == [[2, 3]]


def test_net_blobs_outlive_the_net(net):
    fill(net)
    net.forward()
    blobs = dict(net.blobs)
    params = dict(net.params)
    del net
    assert np.isfinite(blobs["conv"].data).all()
    assert params["ip"][0].diff.shape == (3, 24)


def test_net_missing_files_are_runtime_errors(write):
    with pytest.raises(RuntimeError, match=r"Could not open file missing.prototxt"):
        caffe.Net("missing.prototxt", caffe.TEST)
    with pytest.raises(RuntimeError, match=r"Could not open file missing.caffemodel"):
        caffe.Net(write(NET), caffe.TEST, weights="missing.caffemodel")
    with pytest.raises(TypeError, match="Net needs a phase"):
        caffe.Net(write(NET))
    with pytest.raises(TypeError, match=r"Net has no argument stage\. Accepted: net"):
        caffe.Net(write(NET), caffe.TEST, stage="a")


def test_net_truncated_weights_are_refused_and_change_nothing(net, tmp_path):
    path = tmp_path / "cut.caffemodel"
    net.save(str(path))
    before = net.params["ip"][0].data.copy()
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CaffeError, match=r"cut.caffemodel"):
        net.copy_from(str(path))
    np.testing.assert_array_equal(net.params["ip"][0].data, before)


def test_net_random_seed_repeats_weights_and_dropout(write):
    text = FULLY_CONVOLUTIONAL + (
        'layer { name: "drop" type: "Dropout" bottom: "conv" top: "drop" }'
    )
    runs = []
    for _ in range(2):
        caffe.set_random_seed(11)
        net = caffe.Net(write(text), caffe.TRAIN)
        net.blobs["data"].data[...] = 1
        runs.append([net.forward()["drop"].copy() for _ in range(4)])
    np.testing.assert_array_equal(*runs)
    assert len({value.tobytes() for value in runs[0]}) > 1
