import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcaffe.errors import PrototxtError
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.solver import schedule as schedule_module
from jaxcaffe.solver.schedule import current_step, make_schedule

GOLDEN = Path(__file__).parents[1] / "golden" / "solvers"

# Past its table a rate is a float32 power of XLA: of few ulps for one power, and more
# for a power of a rounded base, by about the size of the exponent's logarithm.
BEYOND_TABLE_RTOL = 5e-5


def rates_of(solver: caffe_pb2.SolverParameter, iterations: list[int]) -> np.ndarray:
    return np.asarray(jax.jit(make_schedule(solver))(jnp.array(iterations, jnp.int32)))


def current_rate(solver: caffe_pb2.SolverParameter, iteration: int) -> float:
    """A plain transcription in double precision."""
    base_lr, gamma, power = solver.base_lr, solver.gamma, solver.power
    match solver.lr_policy:
        case "fixed":
            return base_lr
        case "step":
            return base_lr * gamma ** (iteration // solver.stepsize)
        case "exp":
            return base_lr * gamma**iteration
        case "inv":
            return base_lr * (1 + gamma * iteration) ** -power
        case "multistep":
            step = 0
            for i in range(iteration + 1):
                if step < len(solver.stepvalue) and i >= solver.stepvalue[step]:
                    step += 1
            return base_lr * gamma**step
        case "poly":
            return base_lr * (1 - iteration / solver.max_iter) ** power
        case "sigmoid":
            return base_lr / (1 + math.exp(-gamma * (iteration - solver.stepsize)))
    raise AssertionError(solver.lr_policy)


@pytest.mark.parametrize(
    "case",
    sorted(path.parent.name for path in GOLDEN.glob("*/lrs.npy")),
)
def test_make_schedule_golden_case_equals_caffe_bit_for_bit(parse, case):
    solver = parse((GOLDEN / case / "solver.prototxt").read_text())
    expected = np.load(GOLDEN / case / "lrs.npy")
    rates = rates_of(solver, list(range(len(expected))))
    assert rates.dtype == np.float32
    np.testing.assert_array_equal(rates, expected)


def test_make_schedule_golden_cases_cover_every_policy(parse):
    seen = {
        parse((path.parent / "solver.prototxt").read_text()).lr_policy
        for path in GOLDEN.glob("*/lrs.npy")
    }
    assert seen == set(schedule_module.LR_POLICIES)


def test_make_schedule_scalar_count_gives_float32_scalar(parse):
    schedule = make_schedule(parse('base_lr: 0.1 lr_policy: "fixed" max_iter: 5'))
    for count in (0, np.int32(3), jnp.int32(1000)):
        rate = jax.jit(schedule)(count)
        assert (rate.shape, rate.dtype) == ((), jnp.float32)
        assert rate == np.float32(0.1)


def test_make_schedule_step_at_boundary_has_dropped(parse):
    solver = parse('base_lr: 1 lr_policy: "step" gamma: 0.5 stepsize: 10 max_iter: 100')
    assert rates_of(solver, [0, 9, 10, 19, 20]).tolist() == [1, 1, 0.5, 0.5, 0.25]


def test_make_schedule_multistep_at_stepvalue_has_dropped(parse):
    solver = parse(
        'base_lr: 1 lr_policy: "multistep" gamma: 0.5 stepvalue: 3 stepvalue: 7'
    )
    assert rates_of(solver, [2, 3, 6, 7, 10**9]).tolist() == [1, 0.5, 0.5, 0.25, 0.25]


def test_make_schedule_multistep_unordered_stepvalues_take_one_step_per_iteration(
    parse,
):
    solver = parse(
        'base_lr: 1 lr_policy: "multistep" gamma: 0.5 '
        "stepvalue: 5 stepvalue: 5 stepvalue: 2 stepvalue: 6 stepvalue: 20"
    )
    expected = [1, 0.5, 0.25, 0.125, 0.0625, 0.0625, 0.03125]
    assert rates_of(solver, [4, 5, 6, 7, 8, 19, 20]).tolist() == expected


def test_make_schedule_multistep_zero_stepvalues_drop_from_iteration_0(parse):
    solver = parse(
        'base_lr: 1 lr_policy: "multistep" gamma: 0.5 stepvalue: -3 stepvalue: 0'
    )
    assert rates_of(solver, [0, 1, 2]).tolist() == [0.5, 0.25, 0.25]


def test_make_schedule_multistep_without_stepvalue_keeps_base_lr(parse):
    solver = parse('base_lr: 0.25 lr_policy: "multistep" gamma: 0.5 max_iter: 9')
    assert rates_of(solver, [0, 9, 99]).tolist() == [0.25, 0.25, 0.25]


def test_make_schedule_poly_at_max_iter_is_zero(parse):
    solver = parse('base_lr: 1 lr_policy: "poly" power: 2 max_iter: 4')
    assert rates_of(solver, [0, 1, 2, 4]).tolist() == [1, 0.5625, 0.25, 0]


def test_make_schedule_sigmoid_at_stepsize_is_half_and_rising(parse):
    solver = parse(
        'base_lr: 1 lr_policy: "sigmoid" gamma: 0.5 stepsize: 8 max_iter: 20'
    )
    rates = rates_of(solver, list(range(21)))
    assert rates[8] == 0.5
    assert np.all(np.diff(rates) > 0)


def test_make_schedule_gamma_left_out_is_zero_as_in_caffe(parse):
    solver = parse('base_lr: 1 lr_policy: "step" stepsize: 2 max_iter: 9')
    assert rates_of(solver, [0, 1, 2, 9]).tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    "policy",
    [
        'lr_policy: "step" gamma: 0.9 stepsize: 7',
        'lr_policy: "exp" gamma: 0.999',
        'lr_policy: "inv" gamma: 0.01 power: 0.75',
        'lr_policy: "sigmoid" gamma: 0.01 stepsize: 500',
    ],
)
def test_make_schedule_past_max_iter_follows_the_formula(parse, policy):
    solver = parse(f"base_lr: 0.3 max_iter: 10 {policy}")
    iterations = [9, 10, 11, 77, 700, 1400]
    expected = [current_rate(solver, i) for i in iterations]
    np.testing.assert_allclose(
        rates_of(solver, iterations), expected, rtol=BEYOND_TABLE_RTOL
    )


def test_make_schedule_longer_than_its_table_follows_the_formula(parse, monkeypatch):
    solver = parse('base_lr: 0.3 max_iter: 1000 lr_policy: "poly" power: 0.5')
    whole = rates_of(solver, list(range(1001)))
    monkeypatch.setattr(schedule_module, "_LONGEST_TABLE", 100)
    cut = rates_of(solver, list(range(1001)))
    np.testing.assert_array_equal(cut[:101], whole[:101])
    np.testing.assert_allclose(cut, whole, rtol=BEYOND_TABLE_RTOL)


@pytest.mark.filterwarnings("error")
def test_make_schedule_overflow_gives_infinity_without_a_warning(parse):
    solver = parse('base_lr: 1 lr_policy: "exp" gamma: 10 max_iter: 1000')
    assert rates_of(solver, [3, 1000, 2000]).tolist() == [1000, math.inf, math.inf]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "max_iter: 3",
            "lr_policy is missing. Accepted: fixed, step, exp, inv, multistep, poly, "
            "sigmoid.",
        ),
        (
            'lr_policy: "multi_step"',
            'lr_policy "multi_step" is unknown. Accepted: multistep.',
        ),
        ('lr_policy: "cosine"', 'lr_policy "cosine" is unknown. Accepted: exp, fixed'),
        (
            'lr_policy: "step" gamma: 0.1',
            'lr_policy "step" needs a stepsize and has none. Accepted: stepsize >= 1',
        ),
        (
            'lr_policy: "sigmoid" gamma: 0.1 stepsize: -4',
            'lr_policy "sigmoid" needs a stepsize and has stepsize -4.',
        ),
        *(
            (
                f'lr_policy: "{lr_policy}" stepsize: 2 gamma: -0.5',
                f'lr_policy "{lr_policy}" has gamma -0.5. Accepted: gamma >= 0.',
            )
            for lr_policy in ("step", "exp", "inv", "multistep", "sigmoid")
        ),
        (
            'lr_policy: "exp" gamma: nan',
            'lr_policy "exp" has gamma nan. Accepted: gamma >= 0.',
        ),
    ],
)
def test_make_schedule_bad_policy_is_refused(parse, text, message):
    with pytest.raises(PrototxtError, match=f"^dir/solver.prototxt: {message}"):
        make_schedule(parse(text), "dir/solver.prototxt")


def test_current_step_multistep_counts_up_to_the_last_update(parse):
    solver = parse('lr_policy: "multistep" stepvalue: 10 stepvalue: 25')
    # A snapshot taken exactly at a stepvalue still holds the old step.
    steps = [current_step(solver, i) for i in (0, 10, 11, 25, 26, 500)]
    assert steps == [0, 0, 1, 1, 2, 2]


def test_current_step_step_counts_up_to_the_last_update(parse):
    solver = parse('lr_policy: "step" stepsize: 12')
    assert [current_step(solver, i) for i in (0, 12, 13, 24, 25)] == [0, 0, 1, 1, 2]


def caffes_counter(solver, iteration):
    """Counts as Caffe does, update by update."""
    step = 0
    for update in range(iteration):
        if solver.lr_policy == "step":
            step = update // solver.stepsize
        elif step < len(solver.stepvalue) and update >= solver.stepvalue[step]:
            step += 1
    return step


@given(
    iteration=st.integers(0, 40),
    stepvalue=st.lists(st.integers(0, 40), max_size=5).map(sorted),
    stepsize=st.integers(1, 9),
)
@pytest.mark.parametrize("lr_policy", ["step", "multistep"])
def test_current_step_is_caffes_count(lr_policy, iteration, stepvalue, stepsize):
    solver = caffe_pb2.SolverParameter(
        lr_policy=lr_policy, stepvalue=stepvalue, stepsize=stepsize
    )
    assert current_step(solver, iteration) == caffes_counter(solver, iteration)


def test_current_step_of_a_smooth_policy_stays_0(parse):
    assert current_step(parse('lr_policy: "inv" gamma: 1'), 100) == 0


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    lr_policy=st.sampled_from(schedule_module.LR_POLICIES),
    base_lr=st.floats(2**-12, 8, width=32),
    gamma=st.floats(0.125, 1, width=32),
    power=st.floats(0, 3, width=32, allow_subnormal=False),
    stepsize=st.integers(1, 40),
    stepvalue=st.lists(st.integers(0, 60), min_size=3, max_size=3),
    max_iter=st.sampled_from([1, 60]),  # few, as each new shape is compiled anew
)
def test_make_schedule_equals_plain_transcription(
    lr_policy, base_lr, gamma, power, stepsize, stepvalue, max_iter
):
    solver = caffe_pb2.SolverParameter(
        lr_policy=lr_policy,
        base_lr=base_lr,
        gamma=gamma,
        power=power,
        stepsize=stepsize,
        stepvalue=stepvalue,
        max_iter=max_iter,
    )
    schedule = make_schedule(solver)
    rates = np.asarray(schedule(jnp.arange(max_iter + 1)))
    expected = [current_rate(solver, i) for i in range(max_iter + 1)]
    # Float32 along the way: 1 - i / max_iter keeps an absolute error of one ulp of 1,
    # exp(-x) a relative one of x ulps.
    np.testing.assert_allclose(rates, expected, rtol=3e-5, atol=1e-37)
