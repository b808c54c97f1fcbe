"""Configs: a `config.py` with `get_config()`, or a solver prototxt by itself.

Every run is described by one locked ConfigDict with the fields of `default_config`;
a config file sets those it relies on, the command line overrides any of them.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import sys
from collections.abc import Sequence

import ml_collections

from jaxcaffe import errors

CHOICES = {
    "precision": ("parity", "fast"),
    "batch": ("global", "per_device"),
    "data.resize": ("none", "warp", "short"),
    "prepare": ("", "digits"),
}
"""Fields with a closed set of values."""


def default_config() -> ml_collections.ConfigDict:
    """Returns every field with its default. Relative paths start at the cwd."""
    config = ml_collections.ConfigDict()
    config.solver = ""  # path of the solver prototxt
    config.weights = ""  # .caffemodel files to start from, separated by commas
    config.workdir = ""  # snapshots, logs, curves; "": SNAPSHOT_PREFIX + "_run"
    config.layers = ""  # layers of your own: .py files or modules, comma-separated
    config.prepare = ""  # data set that the first run makes: "digits" or ""
    config.seed = -1  # -1: the solver's random_seed, or the clock without one
    config.precision = (
        "parity"  # "parity": float32 throughout; "fast": as fast as it goes
    )
    config.devices = 0  # how many devices to use; 0: all
    config.device_ids = ""  # or which: "0,2" or "all", as --gpu sets it; no CPU
    config.batch = "global"  # batch_size is "global", or "per_device" as in Caffe
    config.max_iter = 0  # 0: the solver's max_iter
    config.steps_per_dispatch = 1  # iterations that one program runs, at most
    config.tensorboard = False  # also write curves and filters for TensorBoard
    # Instead of the solver's type: "optax.lion", or a callable; "": none. Of any type,
    # as ConfigDict would otherwise take no callable for it.
    config.optimizer = ml_collections.FieldReference("", field_type=object)
    config.data = ml_collections.ConfigDict()
    # "": as the prototxt says; or "tfds:NAME:SPLIT", "lmdb:PATH", "leveldb:PATH"
    config.data.source_train = ""
    config.data.source_test = ""  # the same for test nets
    config.data.tfds_dir = ""  # where TFDS keeps its data sets; "": its default
    config.data.resize = "none"  # TFDS images: "warp" to size x size, "short" side
    config.data.size = 256  # pixels
    config.data.shuffle = False  # shuffle train records anew every epoch, by seed
    config.data.threads = 2  # reader threads, 0: read when asked; never changes a batch
    config.data.processes = 0  # reader processes; 0: threads of this one
    config.data.prefetch = 4  # batches read ahead
    config.data.crop_on_host = False  # images of unequal size: crop before batching
    config.snapshot = ml_collections.ConfigDict()
    config.snapshot.keep = 3  # newest snapshots that stay on disk; 0: all
    config.snapshot.caffe = True  # also write Caffe's files, at snapshot_prefix
    return config


def load_config(path: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """Reads a config file or wraps a solver prototxt, and applies overrides.

    Args:
      path: a Python file that defines `get_config()`, or a solver prototxt.
      overrides: `field=value` or `group.field=value`, values written as Python
        literals or bare strings.

    Returns:
      A locked ConfigDict with all fields of `default_config`.

    Raises:
      ConfigError: no such file, no get_config, a field or value that is not accepted.
    """
    if not os.path.isfile(path):
        raise errors.ConfigError(
            errors.describe(
                path,
                "no such file",
                "a config.py with get_config(), or a solver.prototxt",
            )
        )
    config = _import_config(path) if path.endswith(".py") else _wrap_solver(path)
    for override in overrides:
        _apply(config, override)
    _check(config, path)
    return config.lock()


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits a command line into the rest and what `--config.` arguments say.

    Both `--config.field=value` and `--config.field value` are accepted.

    Returns:
      The other arguments, and `field=value` for each override, in order.

    Raises:
      ConfigError: a field is followed by another flag.
    """
    rest, overrides = [], []
    remaining = iter(argv)
    for argument in remaining:
        name = argument.lstrip("-")
        if not argument.startswith("-") or not name.startswith("config."):
            rest.append(argument)
            continue
        override = name.removeprefix("config.")
        value = None if "=" in override else next(remaining, None)
        if value is not None and value.startswith("--"):
            raise errors.ConfigError(
                errors.describe(argument, "has no value", f"{argument}=VALUE")
            )
        overrides.append(override if value is None else f"{override}={value}")
    return rest, overrides


def fields(config: ml_collections.ConfigDict, prefix: str = "") -> list[str]:
    """Returns all field names, groups written with a dot, in order."""
    names = []
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            names += fields(value, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def _wrap_solver(path: str) -> ml_collections.ConfigDict:
    config = default_config()
    config.solver = path
    return config


def _import_config(path: str) -> ml_collections.ConfigDict:
    spec = importlib.util.spec_from_file_location("jaxcaffe_user_config", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A config may import its parent as `configs.parent` or by its bare name.
    folders = [os.getcwd(), os.path.dirname(os.path.abspath(path))]
    sys.path[:0] = folders
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise errors.ConfigError(
                errors.describe(
                    path,
                    "does not define get_config()",
                    "def get_config() -> ConfigDict",
                )
            )
        config = module.get_config()
        if not isinstance(config, ml_collections.ConfigDict):
            raise errors.ConfigError(
                errors.describe(
                    path,
                    f"get_config() returns {type(config).__name__}",
                    "an ml_collections.ConfigDict, as from default_config()",
                )
            )
    except errors.CaffeError:
        raise
    except SyntaxError as error:
        raise errors.ConfigError(
            errors.describe(f"{path}:{error.lineno}", f"is not Python: {error.msg}")
        ) from error
    except (Exception, SystemExit) as error:
        line = _line_in(path, error)
        raise errors.ConfigError(
            errors.describe(f"{path}{line}", f"{type(error).__name__}: {error}")
        ) from error
    finally:
        for folder in folders:
            sys.path.remove(folder)
    return _complete(config, path)


def _line_in(path: str, error: BaseException) -> str:
    line, trace = "", error.__traceback__
    while trace is not None:
        if os.path.abspath(trace.tb_frame.f_code.co_filename) == os.path.abspath(path):
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line


def _complete(
    config: ml_collections.ConfigDict, path: str
) -> ml_collections.ConfigDict:
    """Refuses unknown fields and fills in the defaults of those left out."""
    whole = default_config()
    known = fields(whole)
    for name in fields(config):
        if name not in known:
            raise errors.ConfigError(
                errors.describe(
                    path, f'unknown field "{name}"', errors.nearest(name, known)
                )
            )
        _set(whole, name, config_get(config, name), path)
    return whole


def config_get(config: ml_collections.ConfigDict, name: str) -> object:
    """Returns the value of a field written with dots."""
    value = config
    for part in name.split("."):
        value = value[part]
    return value


def _apply(config: ml_collections.ConfigDict, override: str) -> None:
    name, equals, text = override.partition("=")
    where = f"--config.{override}"
    if not equals:
        raise errors.ConfigError(
            errors.describe(where, "has no value", f"--config.{name}=VALUE")
        )
    known = fields(config)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known
        raise errors.ConfigError(
            errors.describe(where, f'unknown field "{name}"', ", ".join(near))
        )
    _set(config, name, _parse(text, config_get(config, name), where), where)


def _parse(text: str, default: object, where: str) -> object:
    if isinstance(default, bool):
        if text.lower() not in ("true", "false", "1", "0"):
            raise errors.ConfigError(
                errors.describe(where, f'"{text}" is not a truth value', "true, false")
            )
        return text.lower() in ("true", "1")
    if isinstance(default, int):
        try:
            return int(text.replace("_", ""))
        except ValueError:
            raise errors.ConfigError(
                errors.describe(where, f'"{text}" is not a whole number', "an integer")
            ) from None
    return text


def _set(
    config: ml_collections.ConfigDict, name: str, value: object, where: str
) -> None:
    default = config_get(config, name)
    is_optimizer = name == "optimizer" and callable(value)
    if type(value) is not type(default) and not is_optimizer:
        raise errors.ConfigError(
            errors.describe(
                where,
                f"field {name} is {value!r}",
                f"a value of type {type(default).__name__}, such as {default!r}",
            )
        )
    *groups, last = name.split(".")
    for group in groups:
        config = config[group]
    config[last] = value


def _check(config: ml_collections.ConfigDict, path: str) -> None:
    if config.devices and config.device_ids:
        raise errors.ConfigError(
            errors.describe(
                path,
                f"devices is {config.devices} and device_ids (--gpu) is "
                f'"{config.device_ids}"',
                "one of them",
            )
        )
    if not config.solver:
        raise errors.ConfigError(
            errors.describe(path, "sets no solver", 'config.solver = "solver.prototxt"')
        )
    for name, choices in CHOICES.items():
        if config_get(config, name) not in choices:
            raise errors.ConfigError(
                errors.describe(
                    path,
                    f"field {name} is {config_get(config, name)!r}",
                    ", ".join(choice or '""' for choice in choices),
                )
            )
    least = {
        "devices": 0,
        "max_iter": 0,
        "steps_per_dispatch": 1,
        "seed": -1,
        "snapshot.keep": 0,
        "data.size": 1,
        "data.threads": 0,
        "data.processes": 0,
        "data.prefetch": 1,
    }
    for name, bound in least.items():
        value = config_get(config, name)
        assert isinstance(value, int)
        if value < bound:
            raise errors.ConfigError(
                errors.describe(
                    path, f"field {name} is {value}", f"a number of at least {bound}"
                )
            )
