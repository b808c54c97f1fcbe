"""Layer types of the user's own: docs/custom_layers.md, trained and checked."""

import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from google.protobuf import text_format

from jaxcaffe import profile, train
from jaxcaffe.config import load_config
from jaxcaffe.errors import CaffeError, ConfigError, LayerError, PrototxtError
from jaxcaffe.layers import registry
from jaxcaffe.layers.settings import read_settings
from jaxcaffe.net.graph import build_graph
from jaxcaffe.net.translate import build_net
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.tools import classify, convert_weights
from jaxcaffe.user_layers import load_layers

DOCS = Path(__file__).parents[1] / "docs" / "custom_layers.md"
KEY = jax.random.key(0)

DATA = """
layer { name: "x" type: "DummyData" top: "conv" top: "y" dummy_data_param {
  shape { dim: 2 dim: 4 dim: 3 dim: 3 } shape { dim: 2 }
  data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 1 } } }
"""
LOSS = """
layer { name: "ip" type: "InnerProduct" bottom: "se" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "y" top: "loss" }
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.2 lr_policy: "fixed" max_iter: 20 random_seed: 1
snapshot_prefix: "out" display: 1
"""


def blocks(language):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", DOCS.read_text(), re.M | re.S)
    return [text for kind, text in found if kind == language]


@pytest.fixture(autouse=True)
def own_types(monkeypatch):
    """Forgets after a test which types and modules it loaded."""
    monkeypatch.setattr(registry, "_types", dict(registry._types))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name in ("my_layers", "other_layers"):
            del sys.modules[name]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Works where my_layers.py and a net with its layers are."""
    (code,) = blocks("python")
    text = DATA + blocks("")[0] + LOSS
    (tmp_path / "my_layers.py").write_text(code)
    (tmp_path / "net.prototxt").write_text(text)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def open_net(text):
    parameter = text_format.Parse(text, caffe_pb2.NetParameter())
    return build_net(build_graph(parameter, caffe_pb2.NetState()), {})


def test_documented_layers_train(folder):
    config = load_config("solver.prototxt", ["layers=my_layers.py", "workdir=run"])
    result = train.train(config)
    assert {"squeeze", "excite"} == set(result.state.params["se"])
    lines = (folder / "run" / "scalars.jsonl").read_text().splitlines()
    losses = [float(re.search(r'"loss": ([^,}]+)', line)[1]) for line in lines]
    assert losses[-1] < losses[0] / 3


def test_documented_layers_give_the_right_gradients(folder):
    load_layers("my_layers.py")
    shape = "shape { dim: 2 dim: 4 dim: 3 dim: 3 }"
    data = f'layer {{ name: "x" type: "Input" top: "conv" input_param {{ {shape} }} }}'
    net = open_net(data + blocks("")[0])
    assert net.structs["se"].shape == (2, 4, 3, 3)
    assert [(i.shape, i.lr_mult, i.decay_mult) for i in net.params] == [
        ((2, 4), 1, 1),
        ((4, 2), 2, 0),
    ]
    draw = np.random.default_rng(0)
    # Positive, so that no value is near the kink of the ReLU.
    point = {
        "conv": draw.uniform(0.5, 2, (2, 4, 3, 3)),
        "squeeze": draw.uniform(0.5, 1, (2, 4)),
        "excite": draw.normal(size=(4, 2)),
    }
    factors = draw.normal(size=(2, 4, 3, 3))

    @jax.jit
    def value(point):
        params = {"se": {name: point[name] for name in ("squeeze", "excite")}}
        top = net.apply(params, {}, {"conv": point["conv"]}, KEY).blobs["se"]
        return jnp.vdot(factors, top)

    point = jax.tree.map(jnp.float32, point)
    gradient = jax.jit(jax.grad(value))(point)
    for name, array in point.items():
        step = 0.02 * draw.normal(size=array.shape)
        ahead, back = (value({**point, name: array + e}) for e in (step, -step))
        exact = 2 * np.vdot(gradient[name], step)
        assert ahead - back == pytest.approx(exact, rel=0.01, abs=1e-4)


def test_documented_module_is_found_by_name(folder):
    load_layers("my_layers")
    assert registry.lookup("GELU").file == str(folder / "my_layers.py")


@pytest.mark.parametrize(
    ("main", "argv"),
    [
        (profile.main, ["none.prototxt"]),
        (classify.main, ["net.prototxt", "none.caffemodel", "none.jpg"]),
        (convert_weights.main, ["none.caffemodel", "out.h5"]),
    ],
)
def test_command_takes_layers(folder, main, argv):
    with pytest.raises(ConfigError, match=r'--layers=none\.py: there is no file "none'):
        main([*argv, "--layers=none.py"])
    with pytest.raises(CaffeError):  # of what comes after
        main([*argv, "--layers=my_layers.py"])
    assert registry.lookup("GELU") is not None


def test_unknown_type_points_to_layers(folder):
    with pytest.raises(PrototxtError, match=r'"GELU" is not known\. .*config\.layers'):
        open_net(Path("net.prototxt").read_text())


def test_file_run_again_takes_the_place_of_its_own_types(folder):
    load_layers("my_layers.py")
    first = registry.lookup("GELU").module
    load_layers("my_layers.py, my_layers.py")
    assert registry.lookup("GELU").module is not first


HEAD = """
from flax import nnx
from jaxcaffe.layers import register
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "ReLU",
            r'other\.py:4: layer type "ReLU" is one of Caffe\'s own\. Accepted: an',
        ),
        ("GELU", r'other\.py:4: layer type "GELU" is defined in .*my_layers\.py\. Acc'),
    ],
)
def test_name_that_is_taken_is_refused_unless_asked(folder, name, message):
    load_layers("my_layers.py")
    code = HEAD + f'@register("{name}", bottoms=1, tops=1)\nclass A(nnx.Module): pass\n'
    Path("other.py").write_text(code)
    before = registry.lookup(name)
    with pytest.raises(ConfigError, match=rf"config\.layers=other\.py: {message}"):
        load_layers("other.py")
    assert registry.lookup(name) is before
    Path("other.py").write_text(code.replace("tops=1", "tops=1, replace=True"))
    load_layers("other.py")
    assert registry.lookup(name).file == str(folder / "other.py")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.py", r'--layers=none\.py: there is no file "none\.py"'),
        ("no_such_module_x", r"there is no module"),
        ("broken.py", r"--layers=broken\.py: broken\.py:2: ZeroDivisionError: "),
    ],
)
def test_layers_that_cannot_be_loaded_are_refused(folder, name, message):
    Path("broken.py").write_text("\n1 / 0\n")
    with pytest.raises(ConfigError, match=message):
        load_layers(name, "--layers")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "    def __init__(self, *_): self.table = jnp.ones(3)",
            r"attribute table of Bad is of type .*Accepted: nnx\.Param if it is",
        ),
        (
            "    def __init__(self, *_): self.none = {}['x']",
            r"bad\.py:6: KeyError: 'x'",
        ),
        (
            "    def __init__(self, *_): pass\n    def __call__(self, x): return x @ x",
            r'it cannot run on bottoms "a" \(2, 3\): .*bad\.py:7: TypeError: ',
        ),
        (
            "    def __init__(self, *_): pass\n    def __call__(self, x): return x, x",
            r"its class gives 2 arrays, and the layer has 1 top\. Accepted: one array",
        ),
    ],
)
def test_mistake_in_a_layer_is_one_error_with_its_line(folder, body, message):
    head = HEAD + "import jax.numpy as jnp\n"
    code = head + f'@register("Bad", bottoms=1, tops=1)\nclass Bad(nnx.Module):\n{body}'
    Path("bad.py").write_text(code.replace(HEAD, HEAD[1:]))
    load_layers("bad.py")
    text = (
        'layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 '
        '} } } layer { name: "bad" type: "Bad" bottom: "a" top: "b" }'
    )
    with pytest.raises(PrototxtError, match=rf'layer "bad" \(Bad\): {message}'):
        open_net(text)


def with_param_str(text):
    layer = caffe_pb2.LayerParameter()
    layer.python_param.param_str = text
    return layer


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", {"ratio": 4, "rate": 0.5, "on": False, "any": None}),
        (
            '{"ratio": 2, "on": true}',
            {"ratio": 2, "rate": 0.5, "on": True, "any": None},
        ),
        ("{'rate': 2, 'any': [1]}", {"ratio": 4, "rate": 2.0, "on": False, "any": [1]}),
    ],
)
def test_settings_are_read_over_defaults(text, want):
    layer = with_param_str(text)
    assert read_settings(layer, ratio=4, rate=0.5, on=False, any=None) == want


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"ration": 2}', r'sets "ration", which .* not know\. Accepted: ratio\.'),
        (
            '{"ratio": "2"}',
            r"sets ratio to '2'\. Accepted: a value of type int, such as",
        ),
        ('{"ratio": true}', r"sets ratio to True"),
        ("ratio: 2", r"param_str 'ratio: 2' cannot be read\. Accepted: "),
        ("[1]", r"param_str '\[1\]' cannot be read"),
    ],
)
def test_settings_that_do_not_fit_are_refused(text, message):
    with pytest.raises(LayerError, match=message):
        read_settings(with_param_str(text), ratio=4)


def test_python_data_layer_that_fails_stops_training_with_one_error(folder):
    Path("my_data.py").write_text(
        "import caffe\n"
        "class Data(caffe.Layer):\n"
        "    def setup(self, bottom, top):\n"
        "        self.left = 3\n"
        "        top[0].reshape(2, 3)\n"
        "        top[1].reshape(2)\n"
        "    def forward(self, bottom, top):\n"
        "        self.left -= 1\n"
        "        top[0].data[...] = 1\n"
        "        if not self.left: raise IndexError('out of records')\n"
    )
    text = (
        'layer { name: "d" type: "Python" top: "se" top: "y"\n'
        'python_param { module: "my_data" layer: "Data" } }'
    )
    Path("net.prototxt").write_text(text + LOSS)
    config = load_config("solver.prototxt", ["workdir=run"])
    message = (
        r'^\S*net\.prototxt:1: layer "d" \(Python\): my_data\.py:10: IndexError: o'
    )
    with pytest.raises(CaffeError, match=message):
        train.train(config)
    assert jnp.isfinite(jnp.ones(1)).all()  # The device still works.
