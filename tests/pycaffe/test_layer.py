import textwrap

import numpy as np
import pytest

import jaxcaffe.pycaffe as caffe
from jaxcaffe.errors import PrototxtError

LAYERS = """
import caffe
import numpy as np

class Source(caffe.Layer):
    def setup(self, bottom, top):
        self.calls = 0
        self.step = float(self.param_str)
        top[0].reshape(2, 3)
    def reshape(self, bottom, top): pass
    def forward(self, bottom, top):
        self.calls += 1
        top[0].data[...] = self.calls * self.step
    def backward(self, top, propagate_down, bottom): pass
    def set_step(self, step): self.step = step

class Weighted(caffe.Layer):
    def setup(self, bottom, top):
        self.blobs.add_blob(3)
        self.blobs[0].data[...] = [1, 2, 3]
        self.forwards = 0
    def reshape(self, bottom, top): top[0].reshape(*bottom[0].data.shape)
    def forward(self, bottom, top):
        self.forwards += 1
        top[0].data[...] = bottom[0].data * self.blobs[0].data
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff * self.blobs[0].data
        self.blobs[0].diff[...] = (top[0].diff * bottom[0].data).sum(axis=0)

class Fails(caffe.Layer):
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(1)
    def forward(self, bottom, top): raise KeyError("no such image")

class FailsAtOnce(caffe.Layer):
    def setup(self, bottom, top): raise RuntimeError("not today")
"""

NET = """
force_backward: true
layer { name: "source" type: "Python" top: "x"
  python_param { module: "my_layers" layer: "Source" param_str: "2" } }
layer { name: "weighted" type: "Python" bottom: "x" top: "y"
  python_param { module: "my_layers" layer: "Weighted" } }
layer { name: "relu" type: "ReLU" bottom: "y" top: "y" }
layer { name: "sum" type: "Reduction" bottom: "y" top: "sum" loss_weight: 1 }
"""


@pytest.fixture
def write(tmp_path):
    (tmp_path / "my_layers.py").write_text(textwrap.dedent(LAYERS))

    def write_net(text):
        path = tmp_path / "net.prototxt"
        path.write_text(text)
        return str(path)

    return write_net


def one_layer(class_):
    return f"""layer {{ name: "bad" type: "Python" top: "x"
      python_param {{ module: "my_layers" layer: "{class_}" }} }}"""


def test_python_layer_is_the_users_object_with_the_nets_blobs(write):
    net = caffe.Net(write(NET), caffe.TRAIN)
    source, weighted = net.layers[:2]
    assert isinstance(source, caffe.Layer)
    assert (source.type, source.name, source.phase) == ("Python", "source", 0)
    assert source.calls == 0
    source.set_step(5.0)
    assert net.forward()["sum"] == 2 * 5 * (1 + 2 + 3)
    source.step = 1.0
    assert net.forward()["sum"] == 2 * 2 * (1 + 2 + 3)
    assert weighted.blobs is net.params["weighted"]
    weighted.blobs[0].data[...] = 0
    assert net.forward()["sum"] == 0


def test_python_layer_is_called_once_in_each_pass(write):
    net = caffe.Net(write(NET), caffe.TRAIN)
    net.forward()
    net.backward()
    for name in net.blobs:
        assert np.isfinite(net.blobs[name].data).all()
        assert np.isfinite(net.blobs[name].diff).all()
    assert (net.layers[0].calls, net.layers[1].forwards) == (1, 1)
    assert net.blobs["x"].data.tolist() == [[2] * 3] * 2
    # ReLU works in place on what the layer gave.
    assert net.params["weighted"][0].diff.tolist() == [4, 4, 4]
    assert net.blobs["x"].diff.tolist() == [[1, 2, 3]] * 2


def test_python_layer_trains_in_a_solver(write, tmp_path):
    write(NET)
    (tmp_path / "solver.prototxt").write_text(
        f'net: "{tmp_path / "net.prototxt"}" base_lr: 0.5 lr_policy: "fixed" '
        "max_iter: 2 snapshot_after_train: false"
    )
    solver = caffe.SGDSolver(str(tmp_path / "solver.prototxt"))
    solver.step(1)
    found = solver.net.params["weighted"][0].data
    np.testing.assert_allclose(found, np.array([1, 2, 3]) - 0.5 * 4, rtol=1e-6)
    assert solver.net.layers[0].calls == 1


def test_python_layers_own_errors_come_out_as_they_were(write):
    with pytest.raises(RuntimeError, match="not today") as caught:
        caffe.Net(write(one_layer("FailsAtOnce")), caffe.TEST)
    assert 'layer "bad" (Python)' in caught.value.__notes__[0]
    net = caffe.Net(write(one_layer("Fails")), caffe.TEST)
    with pytest.raises(KeyError, match="no such image"):
        net.forward()


def test_python_layer_of_an_unknown_class_is_an_error_of_the_net(write):
    with pytest.raises(PrototxtError, match='has no class "Fail"'):
        caffe.Net(write(one_layer("Fail")), caffe.TEST)


def test_layer_type_list_has_caffes_types():
    assert {"Data", "Convolution", "InnerProduct"} <= set(caffe.layer_type_list())
