"""What a config file may say, and how its mistakes are told."""

import pytest

from jaxcaffe.config import load_config
from jaxcaffe.errors import ConfigError, nearest

HEAD = """
from jaxcaffe.config import default_config


def get_config():
    config = default_config()
    config.solver = "s.prototxt"
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import sys\nsys.exit(0)", r"c\.py:2: SystemExit: 0"),
        ("\n1 / 0", r"c\.py:2: ZeroDivisionError: division by zero"),
        ("def get_config(:", r"c\.py:1: is not Python: invalid syntax"),
        ("x = 1", r"c\.py: does not define get_config\(\)"),
        ("def get_config(): return 1", r"c\.py: get_config\(\) returns int"),
        (HEAD + "    config.sed = 1\n    return config", 'field "sed"'),
        (HEAD + "    config.seed = -2\n    return config", "seed is -2. Accepted: a"),
        (HEAD + '    config.batch = "b"\n    return config', "Accepted: global, per_d"),
    ],
)
def test_config_with_a_mistake_is_one_clear_error(tmp_path, text, message):
    (tmp_path / "c.py").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(str(tmp_path / "c.py"))
    assert "\n" not in str(caught.value)


def test_nearest_of_very_many_names_shows_a_few():
    names = [f"set_{i:03}" for i in range(300)]
    assert nearest("qqq", names[:90]) == ", ".join(names[:90])
    assert nearest("qqq", names) == ", ".join(names[:10]) + " and 290 more"
    assert nearest("set_2990", names).startswith("set_299")
