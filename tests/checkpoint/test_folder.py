"""What counts as a snapshot, and what a killed process leaves behind."""

import os

import pytest

from jaxcaffe import errors
from jaxcaffe.checkpoint import folder


def test_steps_are_the_folders_named_like_iterations_in_order(tmp_path):
    for name in ("10", "9", "0", "010", "11.partial", "12.broken", "latest"):
        (tmp_path / name).mkdir()
    (tmp_path / "13").write_text("a file")
    assert folder.steps(str(tmp_path)) == [0, 9, 10]
    assert folder.steps(str(tmp_path / "missing")) == []


def test_open_removes_what_was_begun_and_keeps_what_is_whole_or_broken(tmp_path):
    leftovers = (
        "5.partial",
        "5.partial.orbax-checkpoint-tmp",
        "4.removed",
        "3.removed2",
    )
    for name in (*leftovers, "6.orbax-checkpoint-tmp-17", "4", "4.broken"):
        (tmp_path / name / "state").mkdir(parents=True)
    folder.open_folder(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["4", "4.broken"]


def test_open_of_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        errors.SnapshotError, match=r"file: cannot write snapshots here"
    ):
        folder.open_folder(str(tmp_path / "file"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_open_of_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(
        errors.SnapshotError, match=r"Permission denied.*may be written"
    ):
        folder.open_folder(str(tmp_path))
    tmp_path.chmod(0o700)


def test_snapshot_has_its_name_only_after_commit(tmp_path):
    where = str(tmp_path)
    partial = folder.begin(where, 7)
    os.makedirs(os.path.join(partial, "state"))
    with open(os.path.join(partial, "state", "array"), "wb") as file:
        file.write(b"abc")
    assert folder.steps(where) == []
    assert folder.commit(where, 7) == str(tmp_path / "7")
    assert folder.steps(where) == [7]
    assert (tmp_path / "7" / "state" / "array").read_bytes() == b"abc"


def test_begin_and_discard_leave_nothing_of_an_earlier_attempt(tmp_path):
    for name in ("7.partial", "7.partial.orbax-checkpoint-tmp", "70"):
        (tmp_path / name).mkdir()
    folder.begin(str(tmp_path), 7)
    assert os.listdir(tmp_path) == ["70"]
    (tmp_path / "7.partial").mkdir()
    folder.discard(str(tmp_path))
    assert os.listdir(tmp_path) == ["70"]


def test_removed_snapshot_is_no_snapshot_while_its_files_go(tmp_path, monkeypatch):
    (tmp_path / "7" / "state").mkdir(parents=True)
    seen = []
    monkeypatch.setattr(
        folder.shutil, "rmtree", lambda path: seen.append((path, os.listdir(tmp_path)))
    )
    folder.remove(str(tmp_path), 7)
    assert seen == [(str(tmp_path / "7.removed"), ["7.removed"])]


def test_broken_snapshots_of_one_iteration_get_names_of_their_own(tmp_path):
    for name in ("7.broken", "7.broken2"):
        (tmp_path / "7").mkdir()
        assert folder.set_aside(str(tmp_path / "7")) == str(tmp_path / name)
