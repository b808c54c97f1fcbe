import os
import subprocess
import sys

import pytest

from jaxcaffe.errors import ConfigError
from jaxcaffe.tools import cli


@pytest.fixture
def parser():
    parser = cli.Parser("tool", "Does a thing.")
    parser.argument("FIRST", "one")
    parser.argument("SECOND", "perhaps another", nargs="?")
    parser.flag("gray", False, "a switch")
    parser.flag("mirror", True, "a switch that is on")
    parser.flag("notes", "", "a text whose name begins with no")
    parser.flag("resize_width", 0, "a number")
    parser.flag("rate", 0.5, "a share of 100%")
    return parser


@pytest.mark.parametrize(
    ("argv", "gray"),
    [
        ("a", False),
        ("a -gray", True),
        ("--gray a", True),
        ("a --gray=true", True),
        ("a -gray=1", True),
        ("a --gray=False", False),
        ("a --gray --nogray", False),
        ("a --no-gray --gray", True),
        ("a -nogray=false", True),
    ],
)
def test_parser_switch_in_any_form_is_understood(parser, argv, gray):
    flags = parser.parse(argv.split())
    assert (flags.FIRST, flags.SECOND, flags.gray) == ("a", None, gray)


@pytest.mark.parametrize(
    "argv",
    [
        "a b --resize_width=-3",
        "a --resize_width -3 b",
        "-resize_width=-3 a b",
        "a -resize-width -3 -- b",
    ],
)
def test_parser_value_flag_in_any_place_is_understood(parser, argv):
    flags = parser.parse(argv.split())
    assert (flags.FIRST, flags.SECOND, flags.resize_width) == ("a", "b", -3)


def test_parser_defaults_and_types_come_from_the_declaration(parser):
    flags = parser.parse(["a", "--notes=x=y", "--rate", ".25"])
    assert flags.mirror is True
    assert flags.notes == "x=y"
    assert flags.rate == 0.25
    assert parser.parse(["a", "--nomirror"]).mirror is False


def test_parser_argument_after_double_hyphen_may_look_like_a_flag(parser):
    assert parser.parse(["--", "-gray"]).FIRST == "-gray"


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["a", "--grey"], r"^tool: unknown flag --grey\. Accepted: --gray"),
        (["a", "-nonotes"], r"^tool: unknown flag -nonotes\. Accepted: --notes"),
        (["a", "--rate=x"], r"^tool: --rate: invalid float value: 'x'"),
        (["a", "--rate"], r"^tool: --rate has no value\. Accepted: --rate=VALUE"),
        ([], r"^tool: the following arguments are required: FIRST"),
        (["a", "b", "c"], r"^tool: unrecognized arguments: c"),
    ],
)
def test_parser_wrong_arguments_are_one_line(parser, argv, what):
    with pytest.raises(ConfigError, match=what):
        parser.parse(argv)


def test_parser_help_shows_defaults_and_exits_with_0(parser, capsys):
    with pytest.raises(SystemExit) as caught:
        parser.parse(["-h"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "a share of 100% (default: 0.5)" in out
    assert "--nogray" not in out


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ("return len(argv)", 2, ""),
        ("raise errors.DataError('x: broken.')", 1, "x: broken.\n"),
        ("raise KeyboardInterrupt", 130, "Interrupted.\n"),
    ],
)
def test_run_ends_the_process_with_status_and_one_line(body, status, error):
    program = (
        "from jaxcaffe import errors\n"
        "from jaxcaffe.tools import cli\n"
        f"def main(argv):\n    {body}\n"
        "cli.run(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "a", "b"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (status, error)


def test_run_closed_pipe_ends_without_a_traceback():
    program = (
        "from jaxcaffe.tools import cli\n"
        "def main(argv):\n"
        "    for i in range(100000):\n"
        "        print(i)\n"
        "    return 0\n"
        "cli.run(main)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_write_file_replaces_only_when_asked(tmp_path):
    path = tmp_path / "file"
    cli.write_file(str(path), b"1")
    with pytest.raises(ConfigError, match=r"file: exists already"):
        cli.write_file(str(path), b"2")
    assert path.read_bytes() == b"1"
    cli.write_file(str(path), b"3", overwrite=True)
    assert path.read_bytes() == b"3"
    assert os.listdir(tmp_path) == ["file"]


def test_write_file_where_it_cannot_be_leaves_nothing(tmp_path):
    with pytest.raises(ConfigError, match=r"x: cannot be written \(No such file"):
        cli.write_file(str(tmp_path / "no" / "x"), b"1")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=r"folder: is a folder"):
        cli.write_file(str(tmp_path / "folder"), b"1", overwrite=True)
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("threads", [1, 4])
def test_map_in_order_draws_items_only_as_results_are_taken(threads):
    drawn = 0

    def items():
        nonlocal drawn
        for i in range(100):
            drawn += 1
            yield i

    results = cli.map_in_order(lambda i: i * i, items(), threads, 3)
    for i, result in enumerate(results):
        assert result == i * i
        assert drawn <= i + threads * 3
    assert drawn == 100


def test_map_in_order_error_comes_at_its_place():
    results = cli.map_in_order(lambda i: 6 // (3 - i), range(10), 2, 2)
    assert [next(results) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)
