"""A screen that is closed, full, narrow or of few letters stops no work."""

import io
import os
import subprocess
import sys

import pytest

import bilevel_distillation
from bilevel_distillation._app._cli import main
from bilevel_distillation._app._screen import Screen


class Broken(io.StringIO):
    """Takes some letters, and then none."""

    def __init__(self, room, error):
        super().__init__()
        self.room, self.error = room, error

    def write(self, text):
        self.room -= len(text)
        if self.room < 0:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), BrokenPipeError(32, "Broken pipe"),
              OSError(5, "Input/output error"), ValueError("I/O operation on closed file")],
)  # fmt: skip
def test_what_cannot_be_shown_is_dropped_and_remembered(error):
    file = Broken(5, error)
    screen = Screen(file)
    assert screen.write("12345") == 5 and screen.lost is None
    assert screen.write("6") == 1 and screen.lost is error
    screen.write("7")
    screen.flush()
    assert file.getvalue() == "12345" and not screen.isatty()


def test_letters_that_the_screen_does_not_have_are_marked():
    raw = io.BytesIO()
    screen = Screen(io.TextIOWrapper(raw, encoding="ascii"))
    screen.write("± 5 % \N{FOX FACE} ┃")
    screen.flush()
    assert raw.getvalue() == b"? 5 % ? ?" and screen.lost is None and screen.encoding == "ascii"


def test_no_screen_at_all():
    screen = Screen(None)
    assert screen.write("text") == 4 and not screen.isatty() and screen.lost is None
    screen.flush()


def test_a_command_goes_on_where_nothing_can_be_shown(monkeypatch, capsys):
    error = OSError(28, "No space left on device")
    monkeypatch.setattr(sys, "stdout", Broken(0, error))
    main(["--version"])
    assert capsys.readouterr().err == (
        "bilevel-distill: not all could be shown ([Errno 28] No space left on device).\n"
    )
    monkeypatch.setattr(sys, "stdout", Broken(0, BrokenPipeError(32, "Broken pipe")))
    main(["--version"])
    assert capsys.readouterr().err == ""  # as with `head`


@pytest.mark.parametrize(
    ("redirection", "environment"),
    [(">/dev/full", {}), (">&- 2>&-", {}),
     ("", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "20"})],
)  # fmt: skip
def test_help_and_version_of_a_process(redirection, environment):
    command = f"{sys.executable} -m bilevel_distillation run --help {redirection}"
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True,
        env=os.environ | environment, errors="replace",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.parametrize("redirection", ["", ">/dev/full", ">&-"])
def test_a_long_command_says_at_once_that_it_starts(redirection):
    command = f"{sys.executable} -m bilevel_distillation run --ipc 0 {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == "bilevel-distill: --ipc 0 is too small: give 1 or more.\n"
    assert done.returncode == 2
    first = f"bilevel-distill {bilevel_distillation.__version__}: starting\n"
    assert done.stdout == ("" if redirection else first)
