"""Reading: the right content, or one sentence with the file's name."""

import errno
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any


class Damaged(ValueError):
    """A file whose content is proven not to be what was written."""


class Unreadable(OSError):
    """A file that may be whole, and cannot be read."""


@contextmanager
def guarded(
    path: Path, remedy: str = "restore it from a copy", verdict: str = "is damaged"
) -> Iterator[None]:
    """Whatever reading and parsing a file raises becomes one sentence: `Damaged`, or `Unreadable`
    where the file may be whole.
    """
    try:
        yield
    except (Damaged, Unreadable, FileNotFoundError):
        raise
    except OSError as error:
        # Zip and Parquet readers say with these that offsets lead nowhere.
        if error.errno in (None, errno.EINVAL):
            raise damaged(path, in_short(error), remedy, verdict) from error
        raise unreadable(path, error.strerror or in_short(error)) from error
    except MemoryError as error:
        raise unreadable(path, "not enough memory") from error
    except Exception as error:
        raise damaged(path, in_short(error), remedy, verdict) from error


def damaged(path: Path, reason: str, remedy: str, verdict: str = "is damaged") -> Damaged:
    return Damaged(f"{str(path)!r} {verdict} ({reason}): {remedy}.")


def unreadable(path: Path, reason: str) -> Unreadable:
    return Unreadable(
        f"{str(path)!r} cannot be read ({reason}): it is left as it is; see to that, and try again."
    )


def in_short(error: BaseException) -> str:
    """What an error says, in one line."""
    words = " ".join(str(error).split()).rstrip(".:")
    name = type(error).__name__
    plain = isinstance(error, OSError | ValueError)
    return words[:200] if words and plain else f"{name}: {words[:200]}".removesuffix(": ")


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """An ordinary file, for reading: a pipe or a device would be waited for."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise damaged(path, "it is no ordinary file", "move it away")
    with os.fdopen(handle, "rb") as file:
        yield file


def read_bytes(path: Path) -> bytes:
    """All of an ordinary file.

    Raises:
        OSError: it cannot be read.
        Damaged: it is no ordinary file.
    """
    with guarded(path), opened(path) as file:
        return file.read()


def sha256_of(content: bytes | Path) -> str:
    """The checksum of bytes, or of a file."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with guarded(content), opened(content) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_json(content: bytes) -> Any:
    """The value of a JSON text in UTF-8, which knows neither NaN nor infinity."""
    return json.loads(content.decode("utf-8"), parse_constant=_no_number)


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number")


def finite(value: Any) -> float:
    """A number from JSON, which is finite.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)
