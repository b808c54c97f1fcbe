import numpy as np
import pytest

import jaxcaffe.pycaffe as caffe
from jaxcaffe.errors import CaffeError, PrototxtError

NET = """
name: "toy"
layer { name: "d" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 8 dim: 4 } shape { dim: 8 }
  data_filler { type: "gaussian" } data_filler { value: 0 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy"
  include { phase: TEST } }
"""

SOLVER = """
net: "net.prototxt" base_lr: 0.1 lr_policy: "step" stepsize: 5 gamma: 0.5
momentum: 0.9 max_iter: 12 snapshot_prefix: "snap" random_seed: 4
test_iter: 2 test_interval: 6 display: 4 snapshot: 6
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET)

    def write_solver(extra="", text=SOLVER):
        (tmp_path / "solver.prototxt").write_text(text + extra)
        return "solver.prototxt"

    return write_solver


def label(solver):
    for net in (solver.net, *solver.test_nets):
        net.blobs["label"].data[...] = np.arange(8) % 3


def weights(net):
    return [blob.data.copy() for blob in net.params["ip"]]


def test_solver_step_moves_the_weights_by_the_update_in_their_diffs(write):
    solver = caffe.SGDSolver(write())
    label(solver)
    before = weights(solver.net)
    solver.step(1)
    assert solver.iter == 1
    for blob, old in zip(solver.net.params["ip"], before, strict=True):
        np.testing.assert_allclose(blob.data, old - blob.diff, rtol=1e-6, atol=1e-7)
        assert blob.diff.any()


def test_solver_step_shows_the_values_before_the_update(write):
    solver = caffe.SGDSolver(write())
    label(solver)
    (weight, bias) = weights(solver.net)
    solver.step(1)
    data = solver.net.blobs["data"].data
    np.testing.assert_allclose(
        solver.net.blobs["ip"].data, data @ weight.T + bias, rtol=1e-5, atol=1e-6
    )
    # The gradient of a blob inside the net, asked for after the update.
    scores = solver.net.blobs["ip"].data
    prob = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    prob[np.arange(8), np.arange(8) % 3] -= 1
    np.testing.assert_allclose(
        solver.net.blobs["ip"].diff, prob / 8, rtol=1e-4, atol=1e-6
    )


def test_solver_equals_its_parts(write):
    first = caffe.SGDSolver(write())
    second = caffe.SGDSolver(write())
    for solver in (first, second):
        label(solver)
    first.step(3)
    for _ in range(3):
        second.net.clear_param_diffs()
        second.net.forward()
        second.net.backward()
        second.apply_update()
    assert first.iter == second.iter == 3
    for ours, theirs in zip(weights(first.net), weights(second.net), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_solver_apply_update_reaches_arrays_taken_before(write):
    solver = caffe.SGDSolver(write())
    data = solver.net.layers[1].blobs[0].data
    data[...] = 0
    solver.net.layers[1].blobs[0].diff[...] = 1
    solver.apply_update()
    np.testing.assert_allclose(data, -0.1, rtol=1e-6)


def test_solver_lr_follows_the_policy_and_changes_of_base_lr(write):
    solver = caffe.SGDSolver(write())
    assert solver.lr == pytest.approx(0.1)
    solver.step(5)
    assert solver.lr == pytest.approx(0.05)
    solver.param.base_lr = 0.8
    assert solver.lr == pytest.approx(0.4)


def test_solver_solve_tests_displays_and_snapshots(write, tmp_path, capsys):
    caffe.init_log(0)
    solver = caffe.SGDSolver(write())
    solver.solve()
    assert solver.iter == 12
    names = sorted(path.name for path in tmp_path.glob("snap_*"))
    assert names == [
        f"snap_iter_{k}.{end}" for k in (12, 6) for end in ("caffemodel", "solverstate")
    ]
    log = capsys.readouterr().err
    shown = [line.split("] ", 1)[1] for line in log.splitlines() if "] " in line]
    assert [s for s in shown if "Testing net" in s] == [
        f"Iteration {k}, Testing net (#0)" for k in (0, 6, 12)
    ]
    assert len([s for s in shown if s.startswith("Iteration") and "lr" in s]) == 3
    assert "Snapshotting to binary proto file snap_iter_6.caffemodel" in shown
    assert shown[-1] == "Optimization Done."


def test_solver_restore_goes_on_with_the_same_numbers(write):
    straight = caffe.SGDSolver(write())
    label(straight)
    straight.step(6)
    resumed = caffe.SGDSolver(write())
    label(resumed)
    resumed.restore("snap_iter_6.solverstate")
    assert resumed.iter == 6
    for solver in (straight, resumed):
        # The same batch for both: random numbers do not live in a solverstate.
        solver.net.clear_param_diffs()
        for blob in solver.net.params["ip"]:
            blob.diff[...] = 1
        solver.apply_update()
    for ours, theirs in zip(weights(straight.net), weights(resumed.net), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


def test_solver_restore_of_another_solver_type_is_refused(write):
    solver = caffe.SGDSolver(write())
    solver.step(6)
    other = caffe.AdamSolver(write("momentum2: 0.999"))
    with pytest.raises(CaffeError, match=r'solver type\s+"Adam" keeps two'):
        other.restore("snap_iter_6.solverstate")
    with pytest.raises(RuntimeError, match="Could not open file missing"):
        other.restore("missing.solverstate")


def test_solver_callbacks_come_before_an_iteration_and_before_its_update(write):
    solver = caffe.SGDSolver(write())
    seen = []

    def on_gradients_ready():
        seen.append(("ready", solver.iter))
        for blob in solver.net.params["ip"]:
            blob.diff[...] = 0

    solver.add_callback(lambda: seen.append(("start", solver.iter)), on_gradients_ready)
    before = weights(solver.net)
    solver.step(2)
    assert seen == [("start", 0), ("ready", 0), ("start", 1), ("ready", 1)]
    for ours, old in zip(weights(solver.net), before, strict=True):
        np.testing.assert_array_equal(ours, old)


def test_solver_debug_info_tells_how_large_everything_is(write, capsys):
    solver = caffe.SGDSolver(write("debug_info: true"))
    label(solver)
    capsys.readouterr()
    solver.step(1)
    lines = capsys.readouterr().err.splitlines()
    told = [line.split("] ", 1)[1].strip() for line in lines if "ward]" in line]
    tests, train = told[:-10], told[-10:]
    # Two batches of the test net, whose scores and labels are split for two layers.
    assert len(tests) == 2 * 11
    assert not any("Backward" in line for line in tests)
    data = np.abs(solver.net.blobs["data"].data).mean()
    assert train[0] == f"[Forward] Layer d, top blob data data: {data:g}"
    heads = [line.rsplit(":", 1)[0] for line in train]
    assert heads[1:] == [
        "[Forward] Layer d, top blob label data",
        "[Forward] Layer ip, top blob ip data",
        "[Forward] Layer ip, param blob 0 data",
        "[Forward] Layer ip, param blob 1 data",
        "[Forward] Layer loss, top blob loss data",
        "[Backward] Layer loss, bottom blob ip diff",
        "[Backward] Layer ip, param blob 0 diff",
        "[Backward] Layer ip, param blob 1 diff",
        "[Backward] All net params (data, diff)",
    ]
    diff = np.abs(solver.net.blobs["ip"].diff).mean()
    assert train[6].endswith(f": {diff:g}")


def test_solver_test_nets_take_the_weights_when_first_tested(write):
    solver = caffe.SGDSolver(write())
    (net,) = solver.test_nets
    assert not np.array_equal(weights(net)[0], weights(solver.net)[0])
    solver.step(1)
    np.testing.assert_array_equal(weights(net)[0], weights(solver.net)[0])
    other = caffe.SGDSolver(write())
    other.share_weights(net)
    np.testing.assert_array_equal(weights(net)[0], weights(other.net)[0])


def test_solver_iter_size_takes_the_mean_of_several_batches(write):
    solver = caffe.SGDSolver(write("iter_size: 3"))
    label(solver)
    calls = []
    run = solver.net.run_forward_backward
    solver.net.run_forward_backward = lambda: calls.append(1) or run()
    solver.step(2)
    assert len(calls) == 6


@pytest.mark.parametrize(
    ("type_", "kind", "extra"),
    [
        ("SGD", "SGDSolver", "momentum: 0.9"),
        ("Nesterov", "NesterovSolver", "momentum: 0.9"),
        ("AdaGrad", "AdaGradSolver", ""),
        ("RMSProp", "RMSPropSolver", ""),
        ("AdaDelta", "AdaDeltaSolver", "momentum: 0.9"),
        ("Adam", "AdamSolver", "momentum: 0.9"),
    ],
)
def test_get_solver_gives_the_class_of_the_files_type(write, type_, kind, extra):
    text = 'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 1 '
    solver = caffe.get_solver(write(f'type: "{type_}" {extra}', text))
    assert type(solver) is getattr(caffe, kind)
    assert isinstance(solver, caffe.SGDSolver)
    solver.step(1)
    assert solver.iter == 1


def test_get_solver_of_an_unknown_type_or_file_is_refused(write):
    with pytest.raises(PrototxtError, match='solver type "Momentum" is unknown'):
        caffe.get_solver(write('type: "Momentum"'))
    with pytest.raises(RuntimeError, match=r"Could not open file missing.prototxt"):
        caffe.get_solver("missing.prototxt")
    with pytest.raises(RuntimeError, match=r"Could not open file missing.prototxt"):
        caffe.SGDSolver("missing.prototxt")


def test_solver_class_counts_more_than_the_files_type(write):
    solver = caffe.NesterovSolver(write())
    assert solver.param.type == "Nesterov"
