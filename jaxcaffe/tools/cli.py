"""What every command shares: flags as Caffe's tools take them, exit status, safe files.

Flags follow gflags, which tools/*.cpp of Caffe parse their command lines with.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, NoReturn, TypeVar

from jaxcaffe import compile_cache
from jaxcaffe.errors import (
    CaffeError,
    ConfigError,
    describe,
    from_callbacks,
    nearest,
)
from jaxcaffe.proto.files import write_atomically

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_TRUE = ("true", "t", "1", "yes", "y")
_FALSE = ("false", "f", "0", "no", "n")


def run(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Calls `main` with the process's arguments and exits with its status.

    What JAX compiles is kept for the next start, see compile_cache.

    A user's mistake becomes one line on stderr and status 1; an interrupt from the
    keyboard becomes status 130; a reader that closed its pipe ends us quietly.

    Args:
      main: gets the arguments without the program's name, returns the exit status.
    """
    compile_cache.turn_on()
    try:
        with from_callbacks():
            status = main(sys.argv[1:])
        sys.stdout.flush()
    except CaffeError as error:
        print(error, file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        # What is still buffered would fail again while the interpreter shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    sys.exit(status)


class Parser(argparse.ArgumentParser):
    """An argument parser whose flags may be written in all of gflags' ways.

    `-flag`, `--flag`, `--flag=value`, `--flag value`, `--bool`, `--bool=false`,
    `--nobool`, before, between or after the positional arguments; a hyphen in a name
    counts as an underscore. Use `flag` and `argument` to declare, `parse` to read.

    Args:
      prog: the name in messages, such as "convert_imageset".
      description: what the command does; its line breaks are kept.
    """

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._bools: dict[str, bool] = {"help": True}

    def flag(
        self,
        name: str,
        default: Any,
        help: str,
        type: Callable[[str], Any] | None = None,
        choices: Sequence[str] | None = None,
    ) -> None:
        """Declares one flag; a `bool` default makes it a switch.

        Args:
          name: with underscores, without hyphens in front.
          default: its value when not given.
          help: one sentence.
          type: from the text to the value; by default the type of `default`.
          choices: the only values accepted.
        """
        is_bool = isinstance(default, bool)
        self._bools[name] = is_bool
        if is_bool:
            self.add_argument(
                f"-{name}", f"--{name}", action="store_true", default=default, help=help
            )
            self.add_argument(
                f"--no{name}", dest=name, action="store_false", help=argparse.SUPPRESS
            )
            return
        convert = type or (str if default is None else default.__class__)
        shown = "" if default in (None, "") else f" (default: {default})"
        self.add_argument(
            f"-{name}",
            f"--{name}",
            default=default,
            type=convert,
            choices=choices,
            metavar=None if choices else name.upper(),
            help=help.replace("%", "%%") + shown,
        )

    def argument(self, name: str, help: str, nargs: str | None = None) -> None:
        """Declares the next positional argument; `nargs` as argparse has it."""
        self.add_argument(name, help=help, nargs=nargs)

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Returns the values of all flags and arguments.

        Args:
          argv: the arguments without the program's name; None takes the process's.

        Raises:
          ConfigError: an unknown flag, a value that does not fit, a missing argument.
        """
        return self.parse_args(self._normalise(sys.argv[1:] if argv is None else argv))

    def error(self, message: str) -> NoReturn:
        """Raises argparse's complaint as ours, on one line."""
        what = re.sub(r"^argument -(\w+)/--\1", r"--\1", message).replace("\n", " ")
        raise ConfigError(describe(self.prog, what) + f" Try {self.prog} --help.")

    def _normalise(self, argv: Sequence[str]) -> list[str]:
        """Writes flags as `--flag` or `--flag=value` and puts arguments last."""
        flags: list[str] = []
        arguments: list[str] = []
        rest = iter(argv)
        for text in rest:
            if text == "--":
                arguments.extend(rest)
            elif not text.startswith("-") or text == "-":
                arguments.append(text)
            else:
                flags.append(self._normalise_flag(text, rest))
        return [*flags, "--", *arguments] if arguments else flags

    def _normalise_flag(self, text: str, rest: Iterator[str]) -> str:
        written, equals, value = text.partition("=")
        name = written.removeprefix("-").removeprefix("-").replace("-", "_")
        if name == "h":
            name = "help"
        if name in self._bools and not self._bools[name]:
            given = value if equals else next(rest, None)
            if given is None:
                raise ConfigError(
                    describe(self.prog, f"{written} has no value", f"--{name}=VALUE")
                )
            return f"--{name}={given}"
        off = name not in self._bools
        plain = name.removeprefix("no").removeprefix("_") if off else name
        if not self._bools.get(plain):
            known = [f"--{flag}" for flag in self._bools]
            raise ConfigError(
                describe(
                    self.prog, f"unknown flag {written}", nearest(f"--{name}", known)
                )
            )
        if equals:
            if value.lower() not in _TRUE + _FALSE:
                raise ConfigError(
                    describe(self.prog, f'{written} is "{value}"', "true or false")
                )
            off = off != (value.lower() in _FALSE)
        return f"--no{plain}" if off else f"--{plain}"


def say(line: str) -> None:
    """Writes one log line to stderr, where Caffe's tools write theirs."""
    print(line, file=sys.stderr, flush=True)


def count_cores() -> int:
    """Returns the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_order(
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    threads: int,
    in_flight_per_thread: int,
) -> Iterator[_Result]:
    """Like map, on threads, for functions that let go of Python's lock.

    Results come in the order of the items. Only so many wait at a time, and items are
    drawn no faster, so that memory does not grow with their number.

    Args:
      function: must be safe to call from several threads.
      items: drawn in the caller's thread.
      threads: calls at a time.
      in_flight_per_thread: items drawn and not yet given back, for each thread.
    """
    waiting: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= threads * in_flight_per_thread:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def write_file(path: str, data: bytes, overwrite: bool = False) -> None:
    """Writes a whole file or none of it: a temporary neighbour, then its final name.

    Args:
      path: the file to write.
      data: its content.
      overwrite: whether a file of that name may be replaced.

    Raises:
      ConfigError: the file exists and `overwrite` is false, or cannot be written.
    """
    refuse_existing(path, overwrite)

    def write(file: BinaryIO) -> None:
        file.write(data)
        refuse_existing(path, overwrite)  # made meanwhile

    write_atomically(path, write, ConfigError)


def refuse_existing(path: str, overwrite: bool = False) -> None:
    """Raises ConfigError when `path` exists and may not be replaced."""
    if not overwrite and os.path.lexists(path):
        raise ConfigError(
            describe(path, "exists already, and is left as it is", "a new name")
        )
