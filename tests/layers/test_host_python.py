"""The Python layer: classes of the user's inside compiled nets."""

import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.errors import CaffeError, PrototxtError, UserCodeError, from_callbacks
from jaxcaffe.net.graph import build_graph
from jaxcaffe.net.translate import build_net
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import read_net
from jaxcaffe.proto.upgrade import upgrade_net

GOLDEN = Path(__file__).parents[1] / "golden" / "layers"
KEY = jax.random.key(0)

INPUT = """
layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}
"""


@pytest.fixture
def write(tmp_path):
    """Gives write(code, text), a module beside a net's file; returns that file."""

    def write(code: str, text: str, module: str = "my_layers") -> Path:
        head = "import caffe\nimport numpy as np\n"
        (tmp_path / f"{module}.py").write_text(head + textwrap.dedent(code))
        path = tmp_path / "net.prototxt"
        path.write_text(text)
        return path

    yield write
    # The modules of two tests have one name.
    sys.modules.pop("my_layers", None)


def open_net(path, phase=caffe_pb2.TRAIN):
    parameter, source = read_net(path)
    state = caffe_pb2.NetState(phase=phase)
    return build_net(build_graph(upgrade_net(parameter), state, source), {})


def layer(name, bottoms="x", tops="y", param_str="", more=""):
    ends = [f'bottom: "{b}"' for b in bottoms.split()]
    ends += [f'top: "{t}"' for t in tops.split()]
    return (
        f'layer {{ name: "{name}" type: "Python" {" ".join(ends)} {more}\n'
        f'python_param {{ module: "my_layers" layer: "{name}" '
        f'param_str: "{param_str}" }} }}\n'
    )


def net_of(one_layer, dims="dim: 2 dim: 3"):
    return INPUT.format(dims=dims) + one_layer


def run(net, **feeds):
    params, stats = net.init(KEY)
    feeds = {name: jnp.asarray(value, jnp.float32) for name, value in feeds.items()}
    return jax.jit(net.apply)(params, stats, feeds, KEY)


TENFOLD = """
    class Tenfold(caffe.Layer):
        def setup(self, bottom, top):
            pass
        def reshape(self, bottom, top):
            top[0].reshape(*bottom[0].data.shape)
        def forward(self, bottom, top):
            top[0].data[...] = 10 * bottom[0].data
        def backward(self, top, propagate_down, bottom):
            bottom[0].diff[...] = 10 * top[0].diff
"""


def test_python_hand_forward_and_backward_are_the_users(write):
    net = open_net(write(TENFOLD, net_of(layer("Tenfold"))))
    assert net.structs["y"].shape == (2, 3)
    np.testing.assert_array_equal(run(net, x=np.ones((2, 3))).blobs["y"], 10)
    gradient = jax.grad(lambda x: net.apply({}, {}, {"x": x}, KEY).blobs["y"][0, 0])
    np.testing.assert_array_equal(
        jax.jit(gradient)(jnp.ones((2, 3))), [[10, 0, 0], [0, 0, 0]]
    )


def test_python_hand_data_layer_is_called_once_per_pass_in_order(write):
    code = """
        class Count(caffe.Layer):
            def setup(self, bottom, top):
                self.next = int(self.param_str)
                top[0].reshape(2)
            def forward(self, bottom, top):
                top[0].data[...] = self.next, self.phase
                self.next += 1
    """
    net = open_net(write(code, layer("Count", "", "y", "7")), caffe_pb2.TEST)

    @jax.jit
    def three_passes(_):
        def one(carry, _):
            return carry, net.apply({}, {}, {}, KEY).blobs["y"]

        return jax.lax.scan(one, None, length=3)[1]

    np.testing.assert_array_equal(three_passes(0), [[7, 1], [8, 1], [9, 1]])
    np.testing.assert_array_equal(three_passes(0), [[10, 1], [11, 1], [12, 1]])


def test_python_hand_calls_of_a_training_step_come_in_caffes_order(write):
    code = """
        CALLS = []
        class Note(caffe.Layer):
            def setup(self, bottom, top):
                CALLS.append("setup " + self.param_str)
            def reshape(self, bottom, top):
                top[0].reshape(*bottom[0].shape)
            def forward(self, bottom, top):
                CALLS.append("forward " + self.param_str)
                top[0].data[...] = bottom[0].data
            def backward(self, top, propagate_down, bottom):
                CALLS.append("backward " + self.param_str)
                bottom[0].diff[...] = top[0].diff
    """
    # Nobody uses "side", and both its layer and the chain read x.
    text = INPUT.format(dims="dim: 2")
    text += 'layer { name: "w" type: "Bias" bottom: "x" top: "b" '
    text += "bias_param { axis: 0 } }\n"
    text += layer("Note", "b", "c", "1") + layer("Note", "c", "d", "2")
    text += layer("Note", "b", "side", "3")
    net = open_net(write(code, text))
    params, stats = jax.jit(net.init)(KEY)
    calls = sys.modules["my_layers"].CALLS
    assert calls == ["setup 1", "setup 2", "setup 3"]
    calls.clear()

    def loss(params):
        return net.apply(params, stats, {"x": jnp.ones(2)}, KEY).blobs["d"].sum()

    jax.block_until_ready(jax.jit(jax.grad(loss))(params))
    assert calls == [
        *("forward 1", "forward 2", "forward 3"),
        *("backward 2", "backward 1"),
    ]


LOSS = """
    SEEN = []
    class Loss(caffe.Layer):
        def reshape(self, bottom, top):
            top[0].reshape(1)
        def forward(self, bottom, top):
            self.kept = bottom[0].data
            top[0].data[...] = np.sum(bottom[0].data ** 2)
        def backward(self, top, propagate_down, bottom):
            SEEN.append(list(propagate_down))
            np.testing.assert_array_equal(self.kept, bottom[0].data)
            assert (bottom[0].num, bottom[0].channels, bottom[0].height) == (2, 3, 1)
            assert bottom[0].count == 6 and top[0].diff.shape == (1,)
            bottom[0].diff[...] = 2 * bottom[0].data * top[0].diff[0]
"""


def test_python_hand_loss_weight_and_propagate_down_reach_backward(write):
    text = (
        INPUT.format(dims="dim: 2 dim: 3")
        + INPUT.format(dims="dim: 2").replace('"x"', '"t"')
        + 'layer { name: "b" type: "Bias" bottom: "x" top: "b" bias_param {} }\n'
        + layer("Loss", "b t", "loss", more="loss_weight: 0.5")
    )
    net = open_net(write(LOSS, text))
    params, stats = net.init(KEY)
    feeds = {"x": jnp.arange(6.0).reshape(2, 3), "t": jnp.zeros(2)}

    def loss(params):
        return net.apply(params, stats, feeds, KEY).loss

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert value == 0.5 * 55
    np.testing.assert_array_equal(gradient["b"]["bias"], [3, 5, 7])
    assert sys.modules["my_layers"].SEEN == [[True, False]]


LEARNED = """
    class Learned(caffe.Layer):
        def setup(self, bottom, top):
            self.blobs.add_blob(3)
            self.blobs.add_blob(2, 1)
            self.blobs[0].data[...] = [1, 2, 3]
        def reshape(self, bottom, top):
            top[0].reshape(*bottom[0].shape)
        def forward(self, bottom, top):
            top[0].data[...] = bottom[0].data * self.blobs[0].data + self.blobs[1].data
        def backward(self, top, propagate_down, bottom):
            self.blobs[0].diff[...] += (top[0].diff * bottom[0].data).sum(axis=0)
            self.blobs[1].diff[...] += top[0].diff.sum(axis=1, keepdims=True)
            bottom[0].diff[...] = top[0].diff * self.blobs[0].data
"""


def test_python_hand_blobs_of_setup_are_learned(write):
    net = open_net(
        write(LEARNED, net_of(layer("Learned", more="param { lr_mult: 2 }")))
    )
    assert [(i.blob, i.shape, i.lr_mult) for i in net.params] == [
        ("blob0", (3,), 2),
        ("blob1", (2, 1), 1),
    ]
    params, _ = jax.jit(net.init)(KEY)
    np.testing.assert_array_equal(params["Learned"]["blob0"], [1, 2, 3])
    params["Learned"]["blob1"] += 10
    x = jnp.arange(6.0).reshape(2, 3)

    def total(params):
        return net.apply(params, {}, {"x": x}, KEY).blobs["y"].sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(params)
    assert value == 3 + 2 * 5 + 3 * 7 + 60
    np.testing.assert_array_equal(gradient["Learned"]["blob0"], [3, 5, 7])
    np.testing.assert_array_equal(gradient["Learned"]["blob1"], [[3], [3]])


def test_python_hand_rebuilt_net_keeps_the_object_and_reshapes_it(write):
    code = (
        TENFOLD + "        def __init__(self, p):\n            self.setups = 0\n"
        "        def setup(self, bottom, top):\n            self.setups += 1\n"
    )
    path = write(code, net_of(layer("Tenfold")))
    parameter, source = read_net(path)
    graph = build_graph(parameter, caffe_pb2.NetState(), source)
    for shape in ((2, 3), (5,), (2, 3)):
        net = build_net(graph, {"x": jax.ShapeDtypeStruct(shape, jnp.float32)})
        assert run(net, x=np.ones(shape)).blobs["y"].shape == shape
    assert graph.nodes[1].slot.value._user.setups == 1


def test_python_hand_tops_that_forward_leaves_alone_keep_their_values(write):
    code = """
        class Constant(caffe.Layer):
            def setup(self, bottom, top):
                top[0].reshape(3)
                top[0].data[...] = 4
            def forward(self, bottom, top):
                top[0].data[0] += 1
    """
    net = open_net(write(code, layer("Constant", "", "y")))
    apply = jax.jit(net.apply)
    apply({}, {}, {}, KEY)
    np.testing.assert_array_equal(apply({}, {}, {}, KEY).blobs["y"], [6, 4, 4])


def test_python_hand_caffe_means_this_package_only_to_the_users_code(write):
    code = """
        class Late(caffe.Layer):
            def setup(self, bottom, top):
                from caffe.proto import caffe_pb2
                top[0].reshape(1)
            def forward(self, bottom, top):
                import caffe
                top[0].data[0] = caffe.TEST
    """
    before = list(sys.path)
    net = open_net(write(code, layer("Late", "", "y")))
    assert run(net).blobs["y"] == 1
    assert sys.path == before
    assert "caffe" not in sys.modules


def test_python_golden_case_matches_caffe(run_golden, golden_case, monkeypatch):
    monkeypatch.syspath_prepend(GOLDEN)
    run_golden(golden_case)


def test_python_gradient_matches_differences(
    make_layer, check_gradient, write, monkeypatch
):
    monkeypatch.syspath_prepend(write(LEARNED, "").parent)
    module = make_layer(
        'type: "Python" bottom: "x" top: "y" '
        'python_param { module: "my_layers" layer: "Learned" }',
        (2, 3),
    )
    check_gradient(module, np.random.default_rng(0).normal(size=(2, 3)).astype("f"))


HERE = r'net\.prototxt:3: layer "Bad" \(Python\): '


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            "setup(self, bottom, top): raise KeyError('where')",
            r".*my_layers\.py:5: KeyError: 'where'\.$",
        ),
        (
            "reshape(self, bottom, top): np.zeros(bottom)",
            r".*my_layers\.py:5: TypeError: ",
        ),
        ("reshape(self, bottom, top): top[0].reshape(-1)", r".*:5: ValueError: shape "),
    ],
)
def test_python_bad_setup_is_one_error_with_the_users_line(write, method, message):
    code = f"""
        class Bad(caffe.Layer):
            def {method}
    """
    with pytest.raises(PrototxtError, match=HERE + message) as error:
        open_net(write(code, net_of(layer("Bad"))))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("", r'module "my_layers" \(.*my_layers\.py\) has no class "Bad"'),
        ("class Bad: pass", r'class "Bad" of module "my_layers" is no caffe\.Layer'),
        ("import no_such_module_x", r".*my_layers\.py:3: ModuleNotFoundError: "),
        ("class Bad(", r".*my_layers\.py:3: SyntaxError: "),
        ("1 / 0", r".*my_layers\.py:3: ZeroDivisionError: "),
    ],
)
def test_python_bad_module_is_refused(write, code, message):
    with pytest.raises(PrototxtError, match=HERE + message):
        open_net(write(code, net_of(layer("Bad"))))


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ('module: "no.such_x" layer: "Bad"', r'there is no module "no\.such_x"\. Acc'),
        ('layer: "Bad"', "python_param has no module. Accepted: python_param"),
        ('module: "my_layers"', "python_param has no layer"),
    ],
)
def test_python_bad_python_param_is_refused(write, param, message):
    text = net_of(
        'layer { name: "Bad" type: "Python" bottom: "x" top: "y"\n'
        f"python_param {{ {param} }} }}"
    )
    with pytest.raises(PrototxtError, match=HERE + message):
        open_net(write("", text))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "raise ValueError('no more\\nrecords')",
            r".*my_layers\.py:7: ValueError: no more records\.$",
        ),
        (
            "top[0].reshape(4)",
            r'forward gave top "y" shape \(4,\), where the compiled net has \(1,\)\. '
            "Accepted: tops whose shapes",
        ),
        (
            "bottom[0].data[...] = 1",
            r".*my_layers\.py:7: ValueError: assignment destination is read-only\. Acc",
        ),
    ],
)
def test_python_bad_forward_is_one_error_with_the_users_line(write, body, message):
    code = f"""
        class Bad(caffe.Layer):
            def reshape(self, bottom, top): top[0].reshape(1)
            def forward(self, bottom, top):
                {body}
    """
    net = open_net(write(code, net_of(layer("Bad"))))
    with pytest.raises(UserCodeError, match=HERE + message), from_callbacks():
        jax.block_until_ready(run(net, x=np.ones((2, 3))))


def test_python_bad_class_without_backward_is_refused_where_it_is_needed(write):
    code = """
        class Bad(caffe.Layer):
            def reshape(self, bottom, top): top[0].reshape(1)
            def forward(self, bottom, top): top[0].data[0] = 3
    """
    net = open_net(write(code, net_of(layer("Bad"))))
    assert run(net, x=np.ones((2, 3))).blobs["y"] == 3

    def total(x):
        return net.apply({}, {}, {"x": x}, KEY).blobs["y"].sum()

    with (
        pytest.raises(CaffeError, match="Bad does not define backward"),
        from_callbacks(),
    ):
        jax.block_until_ready(jax.jit(jax.grad(total))(jnp.ones((2, 3))))
