import pytest

from jaxcaffe.errors import PrototxtError
from jaxcaffe.net.params import decay_mults, is_owner, lr_mults, trainable

X = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }'


def ip(name, bottom, params, num_output=3, extra=""):
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}"'
        f" inner_product_param {{ num_output: {num_output} {extra} }} {params} }}\n"
    )


def test_params_stand_in_caffes_order_with_default_multipliers(net_of):
    net = net_of(
        X + ip("b", "x", "param { lr_mult: 2 decay_mult: 0 }") + ip("a", "b", "")
    )
    assert [(i.layer, i.blob) for i in net.params] == [
        *[("b", "weight"), ("b", "bias"), ("a", "weight"), ("a", "bias")]
    ]
    assert all(is_owner(info) for info in net.params)
    assert net.params[0].shape == (3, 3)
    assert lr_mults(net) == {
        "b": {"weight": 2.0, "bias": 1.0},
        "a": {"weight": 1.0, "bias": 1.0},
    }
    assert decay_mults(net)["b"] == {"weight": 0.0, "bias": 1.0}


def test_params_without_a_bias_leave_it_out(net_of):
    net = net_of(X + ip("a", "x", "param { lr_mult: 3 }", extra="bias_term: false"))
    assert lr_mults(net) == {"a": {"weight": 3.0}}


def test_params_of_one_name_have_the_first_layer_as_owner(net_of, key):
    net = net_of(
        X
        + ip("a", "x", 'param { name: "w" }')
        + ip("b", "a", 'param { name: "w" lr_mult: 5 }')
        + ip("c", "b", 'param { name: "w" lr_mult: 5 decay_mult: 0.5 }')
    )
    weights = [info for info in net.params if info.blob == "weight"]
    assert {info.owner for info in weights} == {("a", "weight")}
    # Whoever states a multiplier states it for all.
    assert {(info.lr_mult, info.decay_mult) for info in weights} == {(5.0, 0.5)}
    assert lr_mults(net) == {
        "a": {"weight": 5.0, "bias": 1.0},
        "b": {"bias": 1.0},
        "c": {"bias": 1.0},
    }
    params, _ = net.init(key)
    assert {name: sorted(blobs) for name, blobs in params.items()} == {
        "a": ["bias", "weight"],
        "b": ["bias"],
        "c": ["bias"],
    }


def test_trainable_is_false_where_lr_mult_is_0(net_of):
    net = net_of(X + ip("a", "x", "param { lr_mult: 0 } param { lr_mult: 0.1 }"))
    assert trainable(net) == {"a": {"weight": False, "bias": True}}


def test_params_of_batch_norm_are_statistics(net_of):
    net = net_of(X + 'layer { name: "bn" type: "BatchNorm" bottom: "x" top: "y" }')
    assert [info.is_stat for info in net.params] == [True] * 3
    assert [info.lr_mult for info in net.params] == [0.0] * 3
    assert lr_mults(net) == decay_mults(net) == {}


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            ip("a", "x", "param { } param { } param { }"),
            r'net\.prototxt:2: layer "a" \(InnerProduct\): 3 param for 2 blobs\. '
            r"Accepted: at most one param per blob \(weight, bias\)\.",
        ),
        (
            'layer { name: "r" type: "ReLU" bottom: "x" top: "y" param { } }',
            r"1 param for 0 blobs\. Accepted: at most one param per blob\.",
        ),
        (
            ip("a", "x", 'param { name: "w" }', 4)
            + ip("b", "x", 'param { name: "w" }'),
            r'layer "b" .*: "weight" \(3, 3\) cannot share param "w" with blob '
            r'"weight" \(4, 3\) of layer "a": the shapes differ\. Accepted: '
            r"blobs of one shape\.",
        ),
        (
            ip("a", "x", 'param { name: "w" }', 4)
            + ip("b", "a", 'param { name: "w" }', 3, "bias_term: false"),
            r"\(3, 4\) .* \(4, 3\) .* or share_mode: PERMISSIVE as they have one size",
        ),
        (
            ip("a", "x", 'param { name: "w" }', 4)
            + ip("b", "x", 'param { name: "w" share_mode: PERMISSIVE }'),
            r'cannot share param "w" .*: 9 values, not 12\. Accepted: blobs of '
            r"one size",
        ),
        (
            ip("a", "x", 'param { name: "w" lr_mult: 1 }')
            + ip("b", "x", 'param { name: "w" }')
            + ip("c", "x", 'param { name: "w" lr_mult: 2 }'),
            r'net\.prototxt:4: layer "c" .*: lr_mult is 2 for param "w" but 1 in layer '
            r'"a", which shares it\. Accepted: lr_mult: 1, or state it once\.',
        ),
        (
            ip("a", "x", 'param { name: "w" decay_mult: 0 }')
            + ip("b", "x", 'param { name: "w" decay_mult: 1 }'),
            r'decay_mult is 1 for param "w" but 0 in layer "a"',
        ),
        (
            'layer { name: "bn" type: "BatchNorm" bottom: "x" top: "y" param { } }',
            r'layer "bn" .*lr_mult.*"?mean',
        ),
        (
            ip("a", "x", 'param { } param { name: "b" }')
            + 'layer { name: "bn" type: "BatchNorm" bottom: "x" top: "y" '
            'param { name: "b" lr_mult: 0 } }',
            r'"mean" \(3,\) cannot share param "b" .*: one of them is learned',
        ),
    ],
)
def test_params_that_do_not_fit_are_refused(net_of, layers, message):
    with pytest.raises(PrototxtError, match=message):
        net_of(f"{X}\n{layers}")


def second(name, top):
    return ip(name, "x", "").replace(f'top: "{name}"', f'top: "{top}"')


def test_layers_of_one_name_have_keys_of_their_own(net_of, key):
    relu = 'layer { name: "a" type: "ReLU" bottom: "x" top: "x" }\n'
    net = net_of(X + relu + ip("a", "x", "") + second("a", "b") + ip("a#2", "b", ""))
    layers = list(dict.fromkeys(info.layer for info in net.params))
    assert layers == ["a", "a#3", "a#2"]
    params, _ = net.init(key)
    assert sorted(params) == ["a", "a#2", "a#3"]


def test_layers_of_one_name_may_share_and_have_multipliers(net_of):
    shared = 'param { name: "w" } param { lr_mult: 2 }'
    text = ip("a", "x", shared) + ip("a", "x", shared).replace('top: "a"', 'top: "b"')
    net = net_of(X + text)
    assert lr_mults(net) == {
        "a": {"weight": 1.0, "bias": 2.0},
        "a#2": {"bias": 2.0},
    }
