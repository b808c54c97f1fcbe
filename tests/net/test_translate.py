import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.errors import PrototxtError
from jaxcaffe.net.graph import build_graph
from jaxcaffe.net.translate import build_net
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import parse_net

TEST = caffe_pb2.TEST
X = """layer { name: "x" type: "Input" top: "x"
  input_param { shape { dim: 2 dim: 3 } } }
"""
IP = """layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y"
  inner_product_param { num_output: 4 weight_filler { type: "gaussian" } } }
"""
FEEDS = {"x": jnp.arange(6.0).reshape(2, 3)}


def test_build_net_knows_every_shape_beforehand(net_of):
    net = net_of(X + IP)
    assert {name: s.shape for name, s in net.structs.items()} == {
        "x": (2, 3),
        "y": (2, 4),
    }
    assert {s.dtype for s in net.structs.values()} == {jnp.dtype("float32")}


def test_build_net_takes_given_shapes_over_input_param(net_of):
    assert net_of(X + IP, x=(7, 5)).structs["y"].shape == (7, 4)
    assert net_of(X + IP, x=(7, 5)).params[0].shape == (4, 5)


def test_build_net_repeats_one_shape_for_all_tops_of_an_input(net_of):
    net = net_of("""layer { name: "x" type: "Input" top: "x" top: "z"
      input_param { shape { dim: 2 dim: 3 } } }""")
    assert net.structs["z"].shape == (2, 3)


def test_apply_computes_what_the_layers_say(net_of, key):
    net = net_of(X + IP)
    params, stats = net.init(key)
    assert stats == {}
    output = jax.jit(net.apply)(params, stats, FEEDS, key)
    expected = FEEDS["x"] @ params["ip"]["weight"].T + params["ip"]["bias"]
    np.testing.assert_allclose(output.blobs["y"], expected, rtol=1e-5)
    assert list(output.blobs) == ["x", "y"]
    assert output.loss == 0


def test_apply_keeps_the_last_value_of_an_in_place_chain(net_of, key):
    net = net_of(
        X
        + """layer { name: "a" type: "Power" bottom: "x" top: "x"
          power_param { shift: -2 } }
        layer { name: "b" type: "ReLU" bottom: "x" top: "x" }"""
    )
    output = net.apply({}, {}, FEEDS, key)
    np.testing.assert_array_equal(output.blobs["x"], [[0, 0, 0], [1, 2, 3]])
    grad = jax.grad(lambda x: net.apply({}, {}, {"x": x}, key).blobs["x"].sum())
    np.testing.assert_array_equal(grad(FEEDS["x"]), [[0, 0, 0], [1, 1, 1]])


def test_apply_sums_weighted_tops_into_the_loss(net_of, key):
    net = net_of(
        X
        + """layer { name: "s" type: "Slice" bottom: "x" top: "a" top: "b" top: "c"
          loss_weight: 2 loss_weight: 0 loss_weight: -0.5
          slice_param { axis: 1 } }"""
    )
    output = net.apply({}, {}, FEEDS, key)
    assert output.loss == 2 * (0 + 3) - 0.5 * (2 + 5)


def test_apply_counts_two_automatic_losses(net_of, key):
    loss = 'layer {{ name: "{}" type: "EuclideanLoss" bottom: "x" bottom: "z" }}'
    net = net_of(X + X.replace('"x"', '"z"') + loss.format("a") + loss.format("b"))
    feeds = {"x": jnp.ones((2, 3)), "z": jnp.zeros((2, 3))}
    assert net.apply({}, {}, feeds, key).loss == 2 * 1.5


def test_init_of_a_layer_depends_on_its_name_alone(net_of, key):
    other = IP.replace('"ip"', '"other"').replace('top: "y"', 'top: "z"')
    one, _ = net_of(X + IP).init(key)
    two, _ = jax.jit(net_of(X + other + IP).init)(key)
    np.testing.assert_array_equal(one["ip"]["weight"], two["ip"]["weight"])
    assert not np.array_equal(two["ip"]["weight"], two["other"]["weight"])
    three, _ = net_of(X + IP).init(jax.random.key(1))
    assert not np.array_equal(one["ip"]["weight"], three["ip"]["weight"])


DROPOUT = """layer {{ name: "{0}" type: "Dropout" bottom: "x" top: "{1}" }}
"""


def ones(net, key):
    return net.apply({}, {}, {"x": jnp.ones((8, 50))}, key).blobs


def test_apply_gives_each_random_layer_its_own_lasting_key(net_of, key):
    net = net_of(X + DROPOUT.format("a", "a") + DROPOUT.format("b", "b"), x=(8, 50))
    blobs = ones(net, key)
    assert not np.array_equal(blobs["a"], blobs["b"])
    alone = ones(net_of(X + DROPOUT.format("b", "b"), x=(8, 50)), key)
    np.testing.assert_array_equal(blobs["b"], alone["b"])
    assert not np.array_equal(alone["b"], ones(net, jax.random.key(5))["b"])


def test_apply_tells_random_layers_of_one_name_apart(net_of, key):
    net = net_of(X + DROPOUT.format("a", "a") + DROPOUT.format("a", "b"), x=(8, 50))
    blobs = ones(net, key)
    assert not np.array_equal(blobs["a"], blobs["b"])


def test_apply_in_test_phase_drops_nothing(net_of, key):
    net = net_of(X + DROPOUT.format("a", "a"), phase=TEST, x=(8, 50))
    np.testing.assert_array_equal(ones(net, key)["a"], np.ones((8, 50)))


TWO_IPS = (
    X.replace("{", "{{").replace("}", "}}")
    + """layer {{ name: "a" type: "InnerProduct" bottom: "x" top: "h"
      inner_product_param {{ num_output: 3 weight_filler {{ type: "gaussian" }} }}
      {0} }}
    layer {{ name: "b" type: "InnerProduct" bottom: "h" top: "y" loss_weight: 1
      inner_product_param {{ num_output: 3 weight_filler {{ type: "gaussian" }} }}
      {1} }}"""
)


def grads_of(net, key, feeds=FEEDS):
    params, stats = net.init(key)
    return jax.grad(lambda p, f: net.apply(p, stats, f, key).loss, (0, 1))(
        params, feeds
    )


def is_zero(grads):
    return jax.tree.map(lambda g: not np.any(g), grads)


@pytest.mark.parametrize("force", ["", "force_backward: true "])
def test_apply_with_lr_mult_0_gives_that_blob_no_gradient(net_of, key, force):
    net = net_of(force + TWO_IPS.format("param { lr_mult: 0 }", ""))
    params, feeds = is_zero(grads_of(net, key))
    assert params == {
        "a": {"weight": not force, "bias": False},
        "b": {"weight": False, "bias": False},
    }
    assert feeds == {"x": False}


@pytest.mark.parametrize("force", ["", "force_backward: true "])
def test_apply_with_propagate_down_false_stops_below(net_of, key, force):
    net = net_of(force + TWO_IPS.format("", "propagate_down: false"))
    params, feeds = is_zero(grads_of(net, key))
    assert params == {
        "a": {"weight": not force, "bias": not force},
        "b": {"weight": False, "bias": False},
    }
    assert feeds == {"x": not force}


def test_apply_with_a_frozen_sharer_gives_only_the_others_gradient(net_of, key):
    shared, frozen = 'param { name: "w" }', 'param { name: "w" lr_mult: 0 }'
    both = grads_of(net_of(TWO_IPS.format(shared, shared)), key)[0]["a"]["weight"]
    first = grads_of(net_of(TWO_IPS.format(shared, frozen)), key)[0]["a"]["weight"]
    second = grads_of(net_of(TWO_IPS.format(frozen, shared)), key)[0]["a"]["weight"]
    assert np.any(first)
    assert np.any(second)
    np.testing.assert_allclose(first + second, both, rtol=1e-5)


def test_apply_reshapes_a_permissive_sharer(net_of, key):
    share = 'param { name: "w" share_mode: PERMISSIVE }'
    net = net_of(
        X
        + f"""layer {{ name: "a" type: "InnerProduct" bottom: "x" top: "h" {share}
          inner_product_param {{
            num_output: 2 weight_filler {{ type: "gaussian" }} }} }}
        layer {{ name: "b" type: "InnerProduct" bottom: "h" top: "y" {share}
          inner_product_param {{ num_output: 3 }} }}"""
    )
    params, stats = net.init(key)
    weight = params["a"]["weight"]
    expected = FEEDS["x"] @ weight.T @ weight.reshape(3, 2).T
    output = net.apply(params, stats, FEEDS, key)
    np.testing.assert_allclose(output.blobs["y"], expected, rtol=1e-5)


BN = """layer {{ name: "{0}" type: "BatchNorm" bottom: "{1}" top: "{0}" {2}
  batch_norm_param {{ moving_average_fraction: 0.5 }} }}
"""


def test_apply_returns_new_stats_and_leaves_the_given_ones(net_of, key):
    net = net_of(X + BN.format("bn", "x", ""))
    params, stats = net.init(key)
    assert params == {}
    output = jax.jit(net.apply)(params, stats, FEEDS, key)
    np.testing.assert_allclose(output.stats["bn"]["mean"], [1.5, 2.5, 3.5])
    np.testing.assert_array_equal(output.stats["bn"]["scale_factor"], [1])
    np.testing.assert_array_equal(stats["bn"]["mean"], np.zeros(3))
    again = net.apply(params, output.stats, FEEDS, key)
    np.testing.assert_array_equal(again.stats["bn"]["scale_factor"], [1.5])


def test_apply_updates_shared_stats_once_per_sharer(net_of, key):
    share = "".join(f'param {{ name: "{n}" lr_mult: 0 }}' for n in ("m", "v", "s"))
    net = net_of(X + BN.format("a", "x", share) + BN.format("b", "a", share))
    params, stats = net.init(key)
    assert sorted(stats) == ["a"]
    output = net.apply(params, stats, FEEDS, key)
    np.testing.assert_array_equal(output.stats["a"]["scale_factor"], [1.5])


def test_apply_of_a_test_net_runs_on_the_train_nets_arrays(net_of, key):
    text = (
        X
        + IP
        + """layer { name: "more" type: "InnerProduct" bottom: "y" top: "z"
          inner_product_param { num_output: 2 } include { phase: TRAIN } }"""
    )
    params, stats = net_of(text).init(key)
    assert sorted(params) == ["ip", "more"]
    net = net_of(text, phase=TEST)
    blobs = net.apply(params, stats, FEEDS, key).blobs
    assert sorted(blobs) == ["x", "y"]


def test_apply_without_a_layers_arrays_names_the_layer(net_of, key):
    with pytest.raises(KeyError, match='there is no "bias" of layer "ip"'):
        net_of(X + IP).apply({}, {}, FEEDS, key)


def test_apply_without_a_feed_names_top_and_layer(net_of, key):
    with pytest.raises(KeyError, match='nothing feeds top "x" of layer "x"'):
        net_of(X).apply({}, {}, {}, key)


def test_calls_run_one_layer_alone(net_of, key):
    net = net_of(X + IP)
    params, stats = net.init(key)
    feed, call = net.calls
    assert feed is None
    own_params, own_stats = call.arrays(params, stats)
    assert sorted(own_params) == ["bias", "weight"]
    (top,), new_stats = jax.jit(call.run)(own_params, own_stats, [FEEDS["x"]], key)
    whole = net.apply(params, stats, FEEDS, key)
    np.testing.assert_allclose(top, whole.blobs["y"], rtol=1e-6)
    assert new_stats == {}


def test_apply_names_layers_in_the_compiled_program(net_of, key):
    net = net_of(X + IP)
    lowered = jax.jit(net.apply).lower(*net.init(key), FEEDS, key)
    assert '"jit(apply)/ip/' in lowered.as_text(debug_info=True)


FILTERED = """layer { name: "x" type: "Input" top: "x" top: "label" top: "selector"
  input_param { shape { dim: 4 dim: 3 } shape { dim: 4 } shape { dim: 4 } } }
layer { name: "f" type: "Filter" bottom: "x" bottom: "label" bottom: "selector"
  top: "fx" top: "flabel" }
"""
BEHIND = """layer { name: "ip" type: "InnerProduct" bottom: "fx" top: "y"
  inner_product_param { num_output: 5 weight_filler { type: "gaussian" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "flabel" top: "loss"
  loss_param { ignore_label: -1 } }
layer { name: "a" type: "Accuracy" bottom: "y" bottom: "flabel" top: "accuracy"
  accuracy_param { ignore_label: -1 } }
"""
FILTERED_X = jax.random.normal(jax.random.key(7), (4, 3))
FILTERED_LABEL = jnp.array([0.0, 1, 2, 3])
SELECTORS = [[0, 1, 0, 1], [1, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 1]]


def loss_and_grads(net, params, feeds, key):
    def loss(params, x):
        output = net.apply(params, {}, feeds | {"fx" if "fx" in feeds else "x": x}, key)
        return output.loss, output.blobs

    x = feeds.get("fx", feeds.get("x"))
    (loss, blobs), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)
    return loss, blobs, grads


def filter_feeds(selector):
    feeds = {"x": FILTERED_X, "label": FILTERED_LABEL}
    return feeds | {"selector": jnp.array(selector, jnp.float32)}


def check_filtered(net_of, key, selector, got):
    """Compares with a net that is given the selected items alone."""
    loss, blobs, (params_grad, x_grad) = got
    rows = np.flatnonzero(selector)
    whole = net_of(
        """layer { name: "x" type: "Input" top: "fx" top: "flabel" }""" + BEHIND,
        fx=(len(rows), 3),
        flabel=(len(rows),),
    )
    feeds = {"fx": FILTERED_X[rows], "flabel": FILTERED_LABEL[rows]}
    want_loss, want_blobs, want_grads = loss_and_grads(
        whole, whole.init(key)[0], feeds, key
    )
    np.testing.assert_allclose(loss, want_loss, rtol=1e-6)
    np.testing.assert_allclose(blobs["accuracy"], want_blobs["accuracy"], rtol=1e-6)
    for blob in ("weight", "bias"):
        np.testing.assert_allclose(
            params_grad["ip"][blob], want_grads[0]["ip"][blob], rtol=1e-5, atol=1e-6
        )
    want_x_grad = np.zeros((4, 3))
    want_x_grad[rows] = want_grads[1]
    np.testing.assert_allclose(x_grad, want_x_grad, rtol=1e-5, atol=1e-6)
    return want_blobs


def test_apply_behind_a_filter_has_exactly_the_selected_items(net_of, key):
    net = net_of(FILTERED + BEHIND)
    assert net.structs["y"].shape == (4, 5)
    params, _ = net.init(key)
    for selector in SELECTORS:
        got = loss_and_grads(net, params, filter_feeds(selector), key)
        want_blobs = check_filtered(net_of, key, selector, got)
        for blob in ("fx", "flabel", "y"):
            assert got[1][blob].shape == want_blobs[blob].shape
            np.testing.assert_allclose(got[1][blob], want_blobs[blob], rtol=1e-6)


def test_apply_compiled_behind_a_filter_ignores_its_padding(net_of, key):
    net = net_of(FILTERED + BEHIND)
    params, _ = net.init(key)
    run = jax.jit(lambda params, feeds: loss_and_grads(net, params, feeds, key))
    for selector in SELECTORS:
        got = run(params, filter_feeds(selector))
        assert got[1]["y"].shape == (4, 5)
        check_filtered(net_of, key, selector, got)


def test_apply_with_nothing_selected_has_no_loss_and_no_gradient(net_of, key):
    net = net_of(FILTERED + BEHIND)
    params, _ = net.init(key)
    feeds = filter_feeds([0, 0, 0, 0])
    loss, blobs, grads = loss_and_grads(net, params, feeds, key)
    assert blobs["y"].shape == (0, 5)
    assert loss == blobs["accuracy"] == 0
    assert all(not np.any(grad) for grad in jax.tree.leaves(grads))


def test_apply_builds_a_layer_once_for_each_shape(net_of, key, monkeypatch):
    from jaxcaffe.net import layer

    net = net_of(FILTERED + BEHIND)
    params, _ = net.init(key)
    build_layer, built = layer.build_layer, []

    def build(node, bottoms, *rest):
        built.append((node.layer.name, bottoms[0].shape))
        return build_layer(node, bottoms, *rest)

    monkeypatch.setattr(layer, "build_layer", build)
    for selector in SELECTORS * 2:
        net.apply(params, {}, filter_feeds(selector), key)
    assert len(set(built)) == len(built)
    # 4 is what the net was built for.
    assert {shape for name, shape in built if name == "ip"} == {(1, 3), (2, 3), (3, 3)}


def test_apply_behind_a_filter_refuses_weights_of_another_shape(net_of, key):
    net = net_of(
        FILTERED
        + """layer { name: "ip" type: "InnerProduct" bottom: "fx" top: "y"
          inner_product_param { num_output: 2 axis: 0 } }
        layer { name: "s" type: "Silence" bottom: "flabel" }"""
    )
    params, _ = net.init(key)
    message = (
        r'net\.prototxt:5: layer "ip" \(InnerProduct\): "weight" has shape \(2, 12\), '
        r"made for bottoms of shape \(4, 3\), but .* \(1, 3\) need \(2, 3\)\. Accepted"
    )
    with pytest.raises(PrototxtError, match=message):
        net.apply(params, {}, filter_feeds([0, 1, 0, 0]), key)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            'layer { name: "d" type: "Data" top: "d" }',
            r'net\.prototxt:3: layer "d" \(Data\): the shape of top d is not known',
        ),
        (
            'layer { name: "i" type: "Input" top: "i" top: "j" top: "k" '
            "input_param { shape { dim: 1 } shape { dim: 2 } } }",
            r'layer "i" \(Input\): input_param has 2 shapes for 3 tops\. '
            r"Accepted: one shape, or one per top\.",
        ),
        (
            'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" }',
            r'net\.prototxt:3: layer "ip" \(InnerProduct\): .*num_output',
        ),
        (
            'layer { name: "z" type: "Input" top: "z" '
            "input_param { shape { dim: 4 dim: 5 } } }\n"
            'layer { name: "e" type: "Eltwise" bottom: "x" bottom: "z" top: "y" }',
            r'net\.prototxt:4: layer "e" \(Eltwise\): .*\(4, 5\).*\(2, 3\)',
        ),
    ],
)
def test_build_net_refuses_what_a_layer_cannot_do(net_of, layers, message):
    with pytest.raises(PrototxtError, match=message):
        net_of(X + layers)


def test_build_net_turns_a_shape_mismatch_of_jax_into_a_located_error(
    net_of, monkeypatch
):
    from jaxcaffe.layers import registry

    relu = registry.lookup("ReLU")

    class Broken(relu.module):
        def __call__(self, bottom):
            return bottom + jnp.zeros(7)

    monkeypatch.setitem(registry._types, "ReLU", relu._replace(module=Broken))
    with pytest.raises(
        PrototxtError,
        match=r'net\.prototxt:3: layer "r" \(ReLU\): it cannot run on bottoms '
        r'"x" \(2, 3\): .*Incompatible shapes',
    ):
        net_of(X + 'layer { name: "r" type: "ReLU" bottom: "x" top: "y" }')


def test_build_net_without_a_source_still_names_the_layer():
    proto, _ = parse_net('layer { name: "d" type: "Data" top: "d" }', "n")
    graph = build_graph(proto, caffe_pb2.NetState())
    with pytest.raises(PrototxtError, match=r'^layer "d" \(Data\): the shape of top d'):
        build_net(graph, {})
