import os

import pytest

from jaxcaffe.solver.prefix import find_snapshot_prefix


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("solver.prototxt", "solver"),
        ("models/a.b/quick_solver.prototxt", "models/a.b/quick_solver"),
        ("models/a.b/solver", "models/a.b/solver"),
        ("lenet.v2.prototxt", "lenet.v2"),
    ],
)
def test_find_snapshot_prefix_unset_is_solver_path_without_extension(
    parse, path, expected
):
    assert find_snapshot_prefix(parse("snapshot: 5"), path) == expected


def test_find_snapshot_prefix_set_is_kept(parse, tmp_path):
    prefix = f"{tmp_path}/run"
    solver = parse(f'snapshot_prefix: "{prefix}"')
    assert find_snapshot_prefix(solver, "models/solver.prototxt") == prefix


@pytest.mark.parametrize("slash", ["", "/"])
def test_find_snapshot_prefix_directory_takes_the_solver_name(parse, tmp_path, slash):
    solver = parse(f'snapshot_prefix: "{tmp_path}{slash}"')
    prefix = find_snapshot_prefix(solver, "models/solver.prototxt")
    assert prefix == os.path.join(tmp_path, "solver")
