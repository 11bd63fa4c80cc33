"""The screen, which may be closed, full or short of letters: what cannot be shown stops no work."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


class Screen:
    """A text file that takes whatever is written to it.

    Attributes:
        lost: why nothing more can be shown; None while it can.
    """

    def __init__(self, file: Any):
        self._file = file
        self.lost: Exception | None = None

    def write(self, text: str) -> int:
        if self._file is None or self.lost is not None:
            return len(text)
        try:
            try:
                self._file.write(text)
            except UnicodeEncodeError:
                shown = text.encode(self.encoding, "replace").decode(self.encoding)
                self._file.write(shown)
        except (OSError, ValueError) as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        if self._file is None or self.lost is not None:
            return
        try:
            self._file.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    @property
    def encoding(self) -> str:
        return getattr(self._file, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        if self._file is None or self.lost is not None:
            return False
        try:
            return self._file.isatty()
        except ValueError:  # of a closed file
            return False

    def _lose(self, error: Exception) -> None:
        self.lost = error
        # What Python has not written yet it would try to write again at its end, and complain.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._file.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextlib.contextmanager
def screens() -> Iterator[Screen]:
    """Inside the block, standard output and error are screens; the first is yielded."""
    _occupy()
    out, err = Screen(sys.stdout), Screen(sys.stderr)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err  # pyright: ignore
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def _occupy() -> None:
    """A file opened next would get the number of a standard stream that is closed, and what other
    libraries print there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
