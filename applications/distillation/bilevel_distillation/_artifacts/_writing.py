"""Writing: a file is there whole or not at all, and nothing is written through a link."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}\.partial")


class Unwritten(OSError):
    """A file that cannot be written."""


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file by a new one in one step; text is UTF-8."""
    with whole_file(path) as file:
        # What a file name gave that is no character has no place in UTF-8 either.
        file.write(content.encode("utf-8", "replace") if isinstance(content, str) else content)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A new file to write to, which takes the place of `path` once the block is over.

    A link that is there is replaced, not followed. The disk has the content before the name.

    Raises:
        Unwritten: the file cannot be written; an earlier one is left as it was.
    """
    unfinished = path.with_name(unfinished_name(path.name))
    # O_EXCL: whatever has that name already, a link included, is not opened.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with writing(path):
            with os.fdopen(os.open(unfinished, flags, 0o666), "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
            sync_folder(path.parent)
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system says where `path` cannot be written becomes one sentence."""
    try:
        yield
    except Unwritten:
        raise
    except OSError as error:
        told = unwritten(path, error.strerror or str(error))
        told.errno = error.errno
        raise told from error


def unwritten(path: Path, reason: str) -> Unwritten:
    return Unwritten(
        f"{str(path)!r} cannot be written ({reason}): see to that, and give the same command again."
    )


def unfinished_name(name: str) -> str:
    """A new name for what is to be called `name` once it is whole."""
    most = 200 // max(1, len(name.encode("utf-8", "replace")) // max(1, len(name)))
    return f".{name[:most]}.{secrets.token_hex(4)}.partial"


def is_leftover(name: str) -> bool:
    """Whether a name is one of `unfinished_name`."""
    return _UNFINISHED.fullmatch(name) is not None


def drop_leftovers(folder: Path) -> None:
    """Remove what killed processes left unfinished; the caller alone writes to the folder."""
    for entry in [entry for entry in os.scandir(folder) if is_leftover(entry.name)]:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with suppress(OSError):
                os.unlink(entry.path)


def move_aside(path: Path, folder: Path) -> Path:
    """Move a file or folder into `folder`, under a name that is free there."""
    folder.mkdir(exist_ok=True)
    number, place = 1, folder / path.name
    while os.path.lexists(place):
        number += 1
        place = folder / f"{path.name}.{number}"
    os.rename(path, place)
    return place


def linked(file: Path, name: Path) -> bool:
    """Give a file a second name; False where the file system has none, or the file is a link."""
    try:
        os.link(file, name, follow_symlinks=False)
    except (OSError, NotImplementedError):  # the latter where links cannot but be followed
        return False
    return not name.is_symlink()


def sync_folder(folder: Path) -> None:
    """A name is safe when its folder is on the disk; not every system can be asked for that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
