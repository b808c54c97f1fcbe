import pytest

from jaxcaffe.errors import PrototxtError
from jaxcaffe.solver.check import check_solver


def test_check_solver_ordinary_file_passes(parse):
    check_solver(
        parse(
            "base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005 max_iter: 10 display: 1 "
            "snapshot: 5 test_iter: 4 test_interval: 5 iter_size: 2 average_loss: 3"
        )
    )


def test_check_solver_borders_pass(parse):
    check_solver(
        parse(
            "base_lr: 0 momentum: 0 max_iter: 0 display: 0 snapshot: 0 test_iter: 1 "
            "iter_size: 1 average_loss: 1 clip_gradients: -1"
        )
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("iter_size: 0", "iter_size is 0. Accepted: iter_size >= 1."),
        ("average_loss: 0", "average_loss is 0. Accepted: average_loss >= 1."),
        ("max_iter: -1", "max_iter is -1. Accepted: max_iter >= 0."),
        ("display: -1", "display is -1. Accepted: display >= 0."),
        ("snapshot: -5", "snapshot is -5. Accepted: snapshot >= 0."),
        ("test_interval: -5", "test_interval is -5. Accepted: test_interval >= 0."),
        (
            "test_iter: 2 test_iter: -1",
            "a test_iter is -1. Accepted: test_iter >= 0.",
        ),
        ("momentum: -0.5", "momentum is -0.5. Accepted: momentum from 0 to 1."),
        ("momentum: 1.5", "momentum is 1.5. Accepted: momentum from 0 to 1."),
        ("momentum: nan", "momentum is nan. Accepted: momentum a finite number."),
        (
            "weight_decay: inf",
            "weight_decay is inf. Accepted: weight_decay a finite number.",
        ),
        (
            "clip_gradients: nan",
            "clip_gradients is nan. Accepted: clip_gradients a finite number.",
        ),
        ("delta: inf", "delta is inf. Accepted: delta a finite number."),
        (
            'type: "AdaGrad" momentum: 0.9',
            r"momentum is 0.9. Accepted: momentum 0, or left out: AdaGrad has none.",
        ),
        (
            'type: "RMSProp" momentum: 0.9',
            r"momentum is 0.9. Accepted: momentum 0, or left out: RMSProp has none.",
        ),
        (
            'type: "RMSProp" rms_decay: 1',
            "rms_decay is 1. Accepted: rms_decay from 0 to below 1.",
        ),
        (
            'type: "RMSProp" rms_decay: -0.1',
            "rms_decay is -0.1. Accepted: rms_decay from 0 to below 1.",
        ),
        (
            'type: "Adam" momentum: 1',
            "momentum is 1. Accepted: momentum from 0 to below 1 for Adam.",
        ),
        (
            'type: "Adam" momentum2: 1',
            "momentum2 is 1. Accepted: momentum2 from 0 to below 1 for Adam.",
        ),
    ],
)
def test_check_solver_bad_number_is_refused(parse, text, message):
    with pytest.raises(PrototxtError, match=f"^solver.prototxt: {message}$"):
        check_solver(parse(f"base_lr: 0.1 {text}"), "solver.prototxt")


def test_check_solver_base_lr_not_finite_is_refused(parse):
    with pytest.raises(PrototxtError, match=r"^base_lr is nan\. Accepted: base_lr a"):
        check_solver(parse("base_lr: nan"))


def test_check_solver_base_lr_missing_is_refused(parse):
    with pytest.raises(PrototxtError, match=r"^base_lr is missing\. Accepted: a num"):
        check_solver(parse('lr_policy: "fixed"'))
