"""Finding the user's modules, and saying where their code failed."""

import sys

import pytest

from jaxcaffe.errors import LayerError
from jaxcaffe.host.modules import blame, import_class, import_module, load_file


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """Drops the modules that a test imported."""
    yield
    for name in ("found_module", "found_package", "found_package.inner"):
        sys.modules.pop(name, None)


def write(folder, text, name="found_module.py"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_import_module_prefers_the_path_then_the_folders_in_order(
    tmp_path, monkeypatch
):
    for name in ("a", "b", "c"):
        write(tmp_path / name, f"WHERE = {name!r}")
    folders = [str(tmp_path / "b"), str(tmp_path / "c")]
    assert import_module("found_module", folders).WHERE == "b"
    monkeypatch.syspath_prepend(tmp_path / "a")
    assert import_module("found_module", folders).WHERE == "a"


def test_import_module_of_one_name_elsewhere_takes_the_place(tmp_path):
    write(tmp_path / "a", "WHERE = 'a'")
    write(tmp_path / "b", "WHERE = 'b'")
    first = import_module("found_module", [str(tmp_path / "a")])
    assert import_module("found_module", [str(tmp_path / "a")]) is first
    assert import_module("found_module", [str(tmp_path / "b")]).WHERE == "b"


def test_import_module_may_be_dotted_and_import_its_neighbours(tmp_path):
    write(tmp_path, "", "found_package/__init__.py")
    write(tmp_path, "import found_module", "found_package/inner.py")
    write(tmp_path, "WHERE = 1")
    found = import_module("found_package.inner", [str(tmp_path)])
    assert found.found_module.WHERE == 1


@pytest.mark.parametrize("name", ["no_such_x", "found_package.no_such_x"])
def test_import_module_that_is_not_there_is_refused(tmp_path, name):
    write(tmp_path, "", "found_package/__init__.py")
    message = rf'no module "{name}"\. Accepted: a module on PYTHONPATH, or in "'
    with pytest.raises(LayerError, match=message):
        import_module(name, [str(tmp_path)])


def test_import_class_of_another_name_names_the_nearest(tmp_path):
    write(tmp_path, "class MyLoss: pass\nclass Data: pass")
    with pytest.raises(LayerError, match=r'no class "Myloss"\. Accepted: MyLoss\.'):
        import_class("found_module", "Myloss", [str(tmp_path)])


def test_load_file_runs_anew_each_time_and_leaves_no_half_module(tmp_path):
    path = write(tmp_path, "WHERE = 1")
    assert load_file(str(path)).WHERE == 1
    loaded = load_file(str(path))
    path.write_text("WHERE = 1 / 0")
    with pytest.raises(LayerError, match=r"found_module\.py:1: ZeroDivisionError: d"):
        load_file(str(path))
    assert sys.modules["found_module"] is loaded


def test_blame_names_the_innermost_line_of_the_users_code(tmp_path):
    path = write(
        tmp_path,
        "import json\n\ndef outer():\n    inner()\n\ndef inner():\n"
        "    json.loads('{\\n')\n",
    )
    with pytest.raises(ValueError, match="Expecting") as error:
        load_file(str(path)).outer()
    problem, accepted = blame(error.value)
    assert "found_module.py:7: JSONDecodeError: Expecting" in problem
    assert "\n" not in problem
    assert accepted == ""


def test_blame_without_a_line_of_the_user_says_type_and_message():
    assert blame(KeyError("x")) == ("KeyError: 'x'", "")
