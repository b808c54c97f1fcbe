import io

import pytest

from jaxcaffe.progress import show_progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_show_progress_elsewhere_writes_a_line_at_each_multiple():
    out = io.StringIO()
    with show_progress("Work", 2500, stream=out) as advance:
        for _ in range(2500):
            advance(1)
    assert out.getvalue() == (
        "Processed 1000 files.\nProcessed 2000 files.\nProcessed 2500 files.\n"
    )


def test_show_progress_big_steps_write_no_line_twice():
    out = io.StringIO()
    with show_progress("Work", None, unit="images", every=10, stream=out) as advance:
        advance(7)
        advance(25)
        advance(8)
    assert out.getvalue() == "Processed 32 images.\nProcessed 40 images.\n"


def test_show_progress_error_writes_no_closing_line():
    out = io.StringIO()

    def fail():
        with show_progress("Work", 5, stream=out) as advance:
            advance(3)
            raise ValueError("stop")

    with pytest.raises(ValueError, match=r"stop"):
        fail()
    assert out.getvalue() == ""


def test_show_progress_on_a_terminal_draws_a_bar_and_the_closing_line():
    out = Terminal()
    with show_progress("Work", 5, stream=out) as advance:
        advance(5)
    text = out.getvalue()
    assert "Work" in text
    assert "5/5" in text
    assert text.endswith("Processed 5 files.\n")
