"""Records appended to a file as lines of JSON, each with a checksum of its own."""

import json
import os
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ._reading import guarded, in_short, parse_json, read_bytes
from ._writing import write_whole, writing

_SUM = "crc32"
Record = dict[str, Any]


def append_lines(path: Path, records: Iterable[Record], sync: bool = False) -> None:
    """Add records at the end; `sync` waits for the disk. A link is not followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    with writing(path), os.fdopen(os.open(path, flags, 0o666), "ab") as file:
        file.write("".join(map(_line, records)).encode())
        if sync:
            file.flush()
            os.fsync(file.fileno())


def write_lines(path: Path, records: Iterable[Record]) -> None:
    """Replace the file by these records."""
    write_whole(path, "".join(map(_line, records)))


def read_lines(path: Path, check: Callable[[Record], object]) -> list[Record]:
    """All whole records; none where there is no file. An interruption may have cut the last line.

    Raises:
        ValueError: a line is damaged, by its checksum, or by what `check` raises.
    """
    if not os.path.lexists(path):
        return []
    *lines, tail = read_bytes(path).split(b"\n")
    read = [_read(line) for line in lines]
    # Of a last line whose end was not written, or is no end of a line any more.
    for rest in (tail, tail[:-1]):
        record, _ = _read(rest)
        if record is not None and _SUM in record:
            read.append((record, ""))
            break
    summed = any(record is not None and _SUM in record for record, _ in read)
    found = []
    for number, (record, reason) in enumerate(read, 1):
        with guarded(path, f"delete its line {number}, and the rest is read without it"):
            if record is None:
                raise ValueError(f"line {number}: {reason}")
            # Records of the version before have no checksum.
            if summed and record.pop(_SUM, None) != _sum(record):
                raise ValueError(f"line {number}: its checksum does not match")
            try:
                check(record)
            except Exception as error:
                raise ValueError(f"line {number}: {in_short(error)}") from error
        found.append(record)
    return found


def _line(record: Record) -> str:
    return json.dumps({**record, _SUM: _sum(record)}) + "\n"


def _sum(record: Record) -> str:
    return f"{zlib.crc32(json.dumps(record).encode()):08x}"


def _read(line: bytes) -> tuple[Record | None, str]:
    try:
        record = parse_json(line)
    except Exception as error:
        return None, in_short(error)
    return (record, "") if isinstance(record, dict) else (None, "it holds no record")
