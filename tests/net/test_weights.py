import jax
import numpy as np
import pytest

from jaxcaffe.errors import SnapshotError
from jaxcaffe.net.weights import export_weights, load_weights, shape_equals

X = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }'
NET = (
    X
    + """layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y"
  inner_product_param { num_output: 3 } }
layer { name: "bn" type: "BatchNorm" bottom: "y" top: "z" }
layer { name: "r" type: "ReLU" bottom: "z" top: "z" }
"""
)
SHARED = X + "".join(
    f"""layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}"
  inner_product_param {{ num_output: {n} }}
  param {{ name: "w" share_mode: PERMISSIVE }} param {{ lr_mult: 2 }} }}
"""
    for name, bottom, n in (("a", "x", 2), ("b", "a", 3))
)


def numbered(*shapes):
    return [
        np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + i
        for i, shape in enumerate(shapes)
    ]


IP = numbered((3, 3), (3,))
BN = numbered((3,), (3,), (1,))


def test_load_weights_replaces_by_layer_name_and_reports(net_of, key):
    net = net_of(NET)
    params, stats = net.init(key)
    before = jax.tree.map(np.array, params)
    source = {"ip": IP, "old": IP, "x": []}
    new, new_stats, report = load_weights(net, params, stats, source)
    np.testing.assert_array_equal(new["ip"]["weight"], IP[0])
    np.testing.assert_array_equal(new["ip"]["bias"], IP[1])
    assert report == (("ip",), ("old",), ("bn",))
    jax.tree.map(np.testing.assert_array_equal, params, before)
    jax.tree.map(np.testing.assert_array_equal, new_stats, stats)


def test_export_weights_gives_back_what_was_loaded(net_of, key):
    net = net_of(NET)
    params, stats, report = load_weights(net, *net.init(key), {"bn": BN, "ip": IP})
    assert report == (("bn", "ip"), (), ())
    np.testing.assert_array_equal(stats["bn"]["variance"], BN[1])
    exported = export_weights(net, params, stats)
    assert list(exported) == ["ip", "bn"]
    for layer, blobs in (("ip", IP), ("bn", BN)):
        assert {blob.dtype for blob in exported[layer]} == {np.dtype("float32")}
        for got, expected in zip(exported[layer], blobs, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_export_weights_repeats_shared_blobs_in_each_layers_shape(net_of, key):
    net = net_of(SHARED)
    params, stats, _ = load_weights(
        net, *net.init(key), {"a": numbered((2, 3), (2,)), "b": [None, np.ones(3)]}
    )
    exported = export_weights(net, params, stats)
    assert [blob.shape for blob in exported["b"]] == [(3, 2), (3,)]
    np.testing.assert_array_equal(exported["b"][0].ravel(), np.arange(6))


def test_load_weights_of_shared_blobs_keeps_the_last_copy(net_of, key):
    net = net_of(SHARED)
    a, b = numbered((2, 3), (2,)), [np.full((3, 2), 7.0), np.ones(3)]
    params, _, _ = load_weights(net, *net.init(key), {"a": a, "b": b})
    np.testing.assert_array_equal(params["a"]["weight"], np.full((2, 3), 7))
    assert sorted(params["b"]) == ["bias"]
    params, _, _ = load_weights(net, *net.init(key), {"b": b, "a": a})
    np.testing.assert_array_equal(params["a"]["weight"], a[0])


def test_load_weights_reports_a_layer_whose_blobs_all_come_from_another(net_of, key):
    text = SHARED.replace("param { lr_mult: 2 }", "").replace(
        "num_output: ", "bias_term: false num_output: "
    )
    net = net_of(text)
    _, _, report = load_weights(net, *net.init(key), {"a": numbered((2, 3)), "b": []})
    assert report == (("a", "b"), (), ())
    _, _, report = load_weights(net, *net.init(key), {"a": numbered((2, 3))})
    assert report == (("a",), (), ())


@pytest.mark.parametrize(
    ("source", "target", "equal"),
    [
        ((1, 1, 1, 5), (5,), True),
        ((1, 1, 4, 5), (4, 5), True),
        ((1, 1, 1, 1), (), True),
        ((2, 3, 4, 5), (2, 3, 4, 5), True),
        ((5,), (5,), True),
        ((5, 1, 1, 1), (5,), False),
        ((1, 5), (5,), False),
        ((4, 5), (1, 1, 4, 5), False),
        ((20,), (4, 5), False),
    ],
)
def test_shape_equals_counts_legacy_axes_from_the_end(source, target, equal):
    assert shape_equals(source, target) is equal


def test_load_weights_of_a_legacy_shape_gives_the_nets_shape(net_of, key):
    net = net_of(NET)
    legacy = [IP[0].reshape(1, 1, 3, 3), IP[1].reshape(1, 1, 1, 3)]
    params, _, _ = load_weights(net, *net.init(key), {"ip": legacy})
    assert params["ip"]["weight"].shape == (3, 3)
    np.testing.assert_array_equal(params["ip"]["bias"], IP[1])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            {"ip": [IP[0], np.zeros(4)]},
            r'^w\.caffemodel: layer "ip": blob 1 \("bias"\) has shape \(4,\) in the '
            r"file but \(3,\) in the net\. Accepted: shape \(3,\); to learn this "
            r"layer from scratch instead, rename it in the net\.",
        ),
        (
            {"ip": [IP[0]]},
            r'layer "ip": 1 blob in the file but 2 in the net\. Accepted: 2 blobs '
            r"\(weight, bias\); .* rename it",
        ),
        ({"ip": [*IP, IP[1]]}, r'layer "ip": 3 blobs in the file but 2 in the net'),
        ({"ip": [None, IP[1]]}, r'layer "ip": 1 blob in the file but 2 in the net'),
        ({"r": IP}, r'layer "r": 2 blobs in the file but 0 in the net'),
        ({"ip": []}, r'layer "ip": 0 blobs in the file but 2 in the net'),
    ],
)
def test_load_weights_that_do_not_fit_are_refused(net_of, key, source, message):
    net = net_of(NET)
    with pytest.raises(SnapshotError, match=message):
        load_weights(net, *net.init(key), source, "w.caffemodel")


def test_load_weights_names_every_layer_that_does_not_fit(net_of, key):
    net = net_of(NET)
    source = {"ip": [IP[0]], "other": IP, "bn": [np.zeros(4), *BN[1:]], "r": IP}
    message = (
        r'^w: 3 layers do not fit the net: "ip": 1 blob in the file but 2 in the net; '
        r'"bn": blob 0 \("mean"\) has shape \(4,\) in the file but \(3,\) in the net; '
        r'"r": 2 blobs in the file but 0 in the net\. Accepted: blobs of the net\'s '
        r"shapes; to learn these layers from scratch instead, rename them in the net\."
    )
    with pytest.raises(SnapshotError, match=message):
        load_weights(net, *net.init(key), source, "w")


def test_load_weights_of_a_name_given_twice_goes_to_the_first_layer(net_of, key):
    ip = NET.removeprefix(X).splitlines(keepends=True)[:2]
    text = X + "".join(ip) + "".join(ip).replace('top: "y"', 'top: "z"')
    net = net_of(text)
    start = net.init(key)
    params, stats, report = load_weights(net, *start, {"ip": IP})
    assert report == (("ip",), (), ("ip#2",))
    np.testing.assert_array_equal(params["ip"]["weight"], IP[0])
    np.testing.assert_array_equal(params["ip#2"]["weight"], start[0]["ip#2"]["weight"])
    exported = export_weights(net, params, stats)
    assert list(exported) == ["ip", "ip#2"]
    again, _, report = load_weights(net, *net.init(jax.random.key(5)), exported)
    assert report == (("ip", "ip#2"), (), ())
    jax.tree.map(np.testing.assert_array_equal, again, params)
