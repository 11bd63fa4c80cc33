"""What a method made of the real images, kept in a run's folder, and found again by other runs."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ._arrays import read_arrays, write_arrays
from ._reading import Damaged, finite, guarded, parse_json
from ._writing import linked, move_aside

log = logging.getLogger(__name__)
NAME = "prepared.npz"
_ABOUT, _SECONDS = "made_for", "seconds"
_REMEDY = "give the same command again to have it made again"

Prepared = tuple[list[np.ndarray], float]
"""Arrays, and the seconds that they took."""


def keep_prepared(
    folder: Path, arrays: Sequence[np.ndarray], made_for: dict[str, Any], seconds: float
) -> None:
    """Write them into a run's folder, with checksums and with what they were made for."""
    named = {f"array{i:04d}": np.asarray(one) for i, one in enumerate(arrays)}
    about = {_ABOUT: np.array(json.dumps(made_for)), _SECONDS: np.array(seconds, np.float64)}
    write_arrays(folder / NAME, about | named)


def find_prepared(folder: Path, made_for: dict[str, Any]) -> Prepared | None:
    """What a run's folder holds, or one beside it that was made for the same; this folder then
    has it, too. None: there is none, or it is damaged, which the log says.
    """
    for path in _candidates(folder):
        try:
            if _about(path) != made_for:
                continue
            found = _read(path)
        except Damaged as error:
            if path.parent == folder:
                place = move_aside(path, folder / "damaged")
                log.warning("%s It is now %s.", error, place)
            continue
        except OSError:
            if path.parent == folder:
                raise  # it may be whole: nothing takes its place
            continue
        if path.parent != folder:
            _share(path, folder / NAME, found, made_for)
        return found
    return None


def _candidates(folder: Path) -> Iterator[Path]:
    own = folder / NAME
    if own.exists():
        yield own
    with suppress(OSError):
        for other in sorted(folder.parent.iterdir()):
            path = other / NAME
            if path != own and path.is_file() and not path.is_symlink():
                yield path


def _about(path: Path) -> Any:
    held = read_arrays(path, lambda name: name == _ABOUT, _REMEDY)
    with guarded(path, _REMEDY):
        return parse_json(str(held[_ABOUT]).encode())


def _read(path: Path) -> Prepared:
    held = read_arrays(path, remedy=_REMEDY)
    with guarded(path, _REMEDY):
        arrays = [held[name] for name in sorted(held) if name.startswith("array")]
        return arrays, finite(held[_SECONDS].item())


def _share(path: Path, own: Path, found: Prepared, made_for: dict[str, Any]) -> None:
    """A second name of the same file, or a copy where the file system has none."""
    if not linked(path, own):
        keep_prepared(own.parent, found[0], made_for, found[1])
