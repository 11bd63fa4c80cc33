"""Exported folders: each appears whole, and takes the place of nothing but an earlier export."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ._distilled import DistilledSet
from ._reading import Damaged, finite, guarded, parse_json, read_bytes, sha256_of
from ._sums import differing
from ._writing import is_leftover, sync_folder, unfinished_name, write_whole, writing

RECORD = "distilled.json"
_FORMAT, _BEFORE = "bilevel-distillation 2", "bilevel-distillation 1"
_NAME = re.compile(
    r"README\.md|preprocess\.npz|preview\.png|contact_sheet\.png|distilled\.npz|distilled\.json"
    r"|[^/\\]+_[0-9]{3,}\.png|data/train-[0-9]{5}-of-[0-9]{5}(-[0-9a-f]{16})?\.parquet"
)
_REMEDY = "export or copy it again"
_ABANDONED = 3600.0
"""Seconds after which nobody is writing an unfinished export any more."""


def publish(distilled: DistilledSet, folder: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a new folder, and put that in the place of `folder` when it is whole."""
    _check_replaceable(folder)
    new, old = (folder.with_name(unfinished_name(folder.name)) for _ in range(2))
    try:
        with writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            new.mkdir()
            write(new)
            _write_record(distilled, new)
            _put_in_place(new, folder, old)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    for left in _abandoned(folder):
        shutil.rmtree(left, ignore_errors=True)
    return folder


def _abandoned(folder: Path) -> list[Path]:
    """What killed exports to this place left beside it: folders with their names, which hold
    nothing but what exports write, and which nobody has changed for an hour.
    """
    start = unfinished_name(folder.name)[: -len("01234567.partial")]
    found = []
    with suppress(OSError):  # where it cannot be looked into, it is left alone
        for place in folder.parent.iterdir():
            if not (place.name.startswith(start) and is_leftover(place.name)):
                continue
            if place.is_symlink() or not place.is_dir():
                continue
            ours = all(_NAME.fullmatch(one) or is_leftover(Path(one).name) for one in _files(place))
            last = max(path.lstat().st_mtime for path in (place, *place.rglob("*")))
            if ours and time.time() - last > _ABANDONED:
                found.append(place)
    return found


def _put_in_place(new: Path, folder: Path, old: Path) -> None:
    # A folder cannot take the place of a folder that holds something in one step.
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(new, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise
    sync_folder(folder.parent)


def read_record(folder: Path) -> dict[str, Any]:
    """What `distilled.json` says of an export, checked.

    Raises:
        FileNotFoundError: the folder has none.
        Damaged: it holds something else.
    """
    path = folder / RECORD
    if not path.is_file():
        raise FileNotFoundError(
            f"folder {str(folder)!r} has no {RECORD}; give a folder exported with to='hf'."
        )
    content = read_bytes(path)
    with guarded(path, _REMEDY):
        record = parse_json(content)
        if record["format"] == _FORMAT:
            if record.pop("checksum") != _sum(record):
                raise ValueError("its checksum does not match")
        elif record["format"] != _BEFORE:
            raise ValueError(f"its format is {record['format']!r}")
        files = record["files"]
        if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
            raise ValueError("its files are no names")
        sums = record.setdefault("checksums", {})
        if not isinstance(sums, dict) or not isinstance(record["provenance"], dict):
            raise ValueError("its checksums or its provenance are no dictionary")
        finite(record["log_temperature"])
        if not isinstance(record["flip"], bool):
            raise ValueError("its flip is neither true nor false")
        return record


def check_files(folder: Path, record: dict[str, Any], names: Sequence[str]) -> None:
    """Hold files against their checksums, if the record has any: the version before wrote none.

    Raises:
        Damaged: one does not match.
    """
    if record["format"] == _BEFORE:
        return
    name = differing(folder, {name: record["checksums"].get(name, "") for name in names})
    if name is not None:
        raise Damaged(
            f"{str(folder / name)!r} is damaged (its checksum is not the one in {RECORD}): "
            f"{_REMEDY}."
        )


def _write_record(distilled: DistilledSet, new: Path) -> None:
    names = _files(new)
    record: dict[str, Any] = {
        "format": _FORMAT,
        "log_temperature": distilled.log_temperature,
        "flip": distilled.flip,
        "provenance": distilled.provenance,
        "files": sorted([*names, RECORD]),
        "checksums": {name: sha256_of(new / name) for name in names},
    }
    record = parse_json(json.dumps(record).encode())  # as it will be read
    record["checksum"] = _sum(record)
    write_whole(new / RECORD, json.dumps(record, indent=2) + "\n")


def _sum(record: dict[str, Any]) -> str:
    return sha256_of(json.dumps(record, sort_keys=True).encode())


def _check_replaceable(folder: Path) -> None:
    """Raise where something would be lost that no export wrote."""
    if folder.is_symlink():
        raise ValueError(f"folder is {str(folder)!r}, a link; give the folder itself.")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"folder is {str(folder)!r}, a file; give a folder.")
    present = _files(folder)
    if not present:
        return
    try:
        record = read_record(folder)
    except (FileNotFoundError, Damaged):
        record = {"files": [], "format": _FORMAT, "checksums": {}}
    sums = record["checksums"]
    for name in present:
        if name not in record["files"] or not _NAME.fullmatch(name):
            raise ValueError(
                f"folder {str(folder)!r} holds {name!r}, which no export wrote; give an empty or "
                "new folder, or move the file away."
            )
        changed = (folder / name).is_symlink() or name != RECORD and differing(
            folder, {name: sums.get(name, "")})  # fmt: skip
        if record["format"] == _FORMAT and changed:
            raise ValueError(
                f"folder {str(folder)!r} holds {name!r}, which is not as the export wrote it; "
                "give a new folder, or move this one away."
            )
    if record["format"] == _BEFORE:
        raise ValueError(
            f"folder {str(folder)!r} holds an export of an earlier version, without checksums to "
            "tell its files from others; give a new folder, or move this one away."
        )


def _files(folder: Path) -> list[str]:
    """All files below a folder, links included, which are not followed."""
    found = []
    for place, folders, files in os.walk(folder, onerror=_raise):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        found += [Path(place, name).relative_to(folder).as_posix() for name in (*files, *links)]
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error
