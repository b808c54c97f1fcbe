import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.net.pairs import find_pairs

# Pairs sum in another order, in float32.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
X = """layer { name: "x" type: "Input" top: "x"
  input_param { shape { dim: 4 dim: 3 dim: 5 dim: 5 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "c" convolution_param {
  num_output: 3 kernel_size: 1 weight_filler { type: "gaussian" std: 1 } } }
layer { name: "bn" type: "BatchNorm" bottom: "c" top: "b"
  batch_norm_param { use_global_stats: false } }
"""
SCALE = """layer { name: "scale" type: "Scale" bottom: "b" top: "s"
  scale_param { bias_term: true filler { type: "gaussian" std: 1 } } }
"""
READ_TWICE = """layer { name: "sum" type: "Eltwise" bottom: "s" bottom: "b" top: "t" }
"""
CASES = {
    "paired": (X + SCALE, 1),
    "in place": ((X + SCALE).replace('"c"', '"s"').replace('"b"', '"s"'), 1),
    "without bias": (X + SCALE.replace("bias_term: true", ""), 1),
    "held": (X + SCALE.replace("scale_param", "param { lr_mult: 0 } scale_param"), 1),
    "stored statistics": (X.replace("stats: false", "stats: true") + SCALE, 1),
    "read by another": (X + SCALE + READ_TWICE, 0),
    "by another axis": (
        X + SCALE.replace("bias_term", "axis: 0 num_axes: 2 bias_term"),
        0,
    ),
    "a loss": (X.replace('top: "b"', 'top: "b" loss_weight: 1') + SCALE, 0),
    "overwritten, then read": (
        X + SCALE + READ_TWICE.replace('bottom: "b" top', 'bottom: "c" top'),
        1,
    ),
}


def _pairs(net):
    shapes = {info.layer: [] for info in net.params}
    for info in net.params:
        if not info.is_stat:
            shapes[info.layer].append(info.shape)
    return find_pairs(net.graph, [shapes.get(node.key, []) for node in net.graph.nodes])


def _run_by_layer(net, params, stats, feeds, key):
    """Does as net.apply, one layer after the other."""
    blobs, new = dict(feeds), dict(stats)
    for node, call in zip(net.graph.nodes, net.calls, strict=True):
        if call is not None:
            bottoms = [blobs[name] for name in node.bottoms]
            tops, own = call.run(*call.arrays(params, stats), bottoms, key)
            blobs.update(zip(node.tops, tops, strict=True))
            new |= {node.key: own} if own else {}
    return blobs, new


@pytest.mark.parametrize("case", CASES)
def test_apply_of_a_pair_equals_its_layers_with_their_gradients(case, net_of, key):
    text, count = CASES[case]
    net = net_of(text)
    assert len(_pairs(net)) == count
    params, stats = net.init(key)
    feeds = {"x": jax.random.normal(key, (4, 3, 5, 5))}

    def loss(blobs):
        top = blobs[net.graph.nodes[-1].tops[0]]
        return (top * jnp.cos(jnp.arange(top.size)).reshape(top.shape)).sum()

    def paired(params):
        out = net.apply(params, stats, feeds, key)
        return loss(out.blobs), (dict(out.blobs), out.stats)

    def single(params):
        blobs, new = _run_by_layer(net, params, stats, feeds, key)
        return loss(blobs), (blobs, new)

    got, want = (
        jax.jit(jax.value_and_grad(f, has_aux=True))(params) for f in (paired, single)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), got, want)
