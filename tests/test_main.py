"""The command `jaxcaffe`, and what `import jaxcaffe` gives."""

import subprocess
import sys

import pytest

import jaxcaffe
from jaxcaffe import __main__ as entry
from jaxcaffe import errors, train
from jaxcaffe.tools import make_image_list


def test_help_lists_each_command_on_one_line(capsys):
    assert entry.dispatch(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, (_, what) in entry.COMMANDS.items():
        assert [line.split(maxsplit=1) for line in lines].count([name, what]) == 1
    for title, commands in entry.GROUPS.items():
        at = lines.index(f"{title}:")
        listed = [line.split()[0] for line in lines[at + 1 : at + 1 + len(commands)]]
        assert listed == list(commands)
    assert max(map(len, lines)) < 80


def test_no_command_shows_help_and_fails(capsys):
    assert entry.dispatch([]) == 1
    assert "usage: jaxcaffe COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize("name", entry.COMMANDS)
def test_each_command_starts(name, capsys):
    with pytest.raises(SystemExit) as exit_:
        entry.dispatch([name, "--help"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


def test_command_gets_its_arguments(monkeypatch):
    got = []
    monkeypatch.setattr(make_image_list, "main", lambda argv: got.append(argv) or 3)
    assert entry.dispatch(["make-image-list", "root", "--seed=1"]) == 3
    assert got == [["root", "--seed=1"]]


def test_unknown_command_names_the_nearest():
    message = 'jaxcaffe: unknown command "trian". Accepted: train.'
    with pytest.raises(errors.ConfigError, match=message):
        entry.dispatch(["trian"])


def test_console_prints_version_and_users_mistakes_without_traceback():
    command = [sys.executable, "-m", "jaxcaffe"]
    version = subprocess.run([*command, "--version"], capture_output=True, text=True)
    assert version.returncode == 0
    assert version.stdout.split() == ["jaxcaffe", "version", "0.1.0"]
    wrong = subprocess.run([*command, "clasify"], capture_output=True, text=True)
    assert wrong.returncode == 1
    assert wrong.stderr == (
        'jaxcaffe: unknown command "clasify". Accepted: classify.\n'
    )


def test_import_loads_no_jax():
    code = (
        "import sys, jaxcaffe, jaxcaffe.__main__; from jaxcaffe import CaffeError\n"
        "print([m for m in ('jax', 'numpy', 'google.protobuf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_public_names_come_from_their_modules():
    from jaxcaffe.classifier import Classifier
    from jaxcaffe.config import load_config

    assert jaxcaffe.Classifier is Classifier
    assert jaxcaffe.load_config is load_config
    assert jaxcaffe.CaffeError is errors.CaffeError
    assert set(jaxcaffe.__all__) <= set(dir(jaxcaffe))


def test_unknown_public_name_is_refused_and_modules_still_import():
    with pytest.raises(AttributeError, match="no attribute 'Clasifier'"):
        _ = jaxcaffe.Clasifier
    assert callable(train.train)
