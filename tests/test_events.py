import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxcaffe.events import count_until_event, has_passed, is_due

INTERVALS = st.lists(st.integers(0, 12), max_size=3)


@given(
    iteration=st.integers(0, 60),
    most=st.integers(1, 15),
    left=st.integers(1, 30),
    before=INTERVALS,
    after=INTERVALS,
)
def test_count_until_event_is_as_in_a_loop_that_looks_after_each_iteration(
    iteration, most, left, before, after
):
    count = 1
    while (
        count < most
        and count < left
        and not any(is_due(iteration + count, n) for n in before)
        and not any(is_due(iteration + count - 1, n) for n in after)
    ):
        count += 1
    end = iteration + left
    assert count_until_event(iteration, most, end, before, after) == count


@pytest.mark.parametrize(
    ("iteration", "count"), [(0, 1), (1, 10), (91, 9), (100, 1), (101, 10), (498, 2)]
)
def test_count_until_event_ends_at_tests_and_after_displays(iteration, count):
    assert count_until_event(iteration, 10, 1000, [500, 100], [20, 0]) == count


@given(st.integers(0, 200), st.integers(0, 60), st.integers(1, 50))
def test_has_passed_is_as_in_a_loop_that_looks_at_each_iteration(first, count, every):
    reached = range(first + 1, first + count + 1)
    due = any(is_due(iteration, every) for iteration in reached)
    assert has_passed(first, first + count, every) == due


def test_is_due_with_no_interval_is_never():
    assert not is_due(0, 0)
