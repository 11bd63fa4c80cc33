"""What lies in a folder that somebody else may have made: nothing outside of it is looked at."""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

_KEPT_APART = frozenset(
    ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")
)
"""Folders that systems make and keep their own things in, also pictures."""


@dataclass
class Listing:
    """Everything below a folder, as paths relative to it with forward slashes, sorted.

    Attributes:
        root: the folder, links resolved.
        files: regular files, by links that stay in the folder as well.
        folders: folders, empty ones too.
        hidden: files whose name, or a folder's above them, begins with a dot, and what systems put
            beside the data.
        twice: links, and what they lead to, which is listed under its own name as well.
        refused: what is not followed or opened, and why: links that lead out of the folder, in a
            circle or nowhere, pipes and devices.
    """

    root: Path
    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    twice: dict[str, str] = field(default_factory=dict)


def listed(folder: Path) -> Listing:
    """List a folder, which may itself be a link: its owner named it.

    Raises:
        OSError: a folder in it cannot be read.
    """
    listing = Listing(folder.resolve())
    _walk(listing, listing.root, "", (os.fspath(listing.root),), hidden=False)
    for names in (listing.files, listing.folders, listing.hidden):
        names.sort()
    own = {*listing.files, *listing.folders}
    listing.twice = {link: to for link, to in sorted(listing.twice.items()) if to in own}
    return listing


def is_inside(path: Path, root: Path) -> bool:
    """Whether a path, its links followed, is in the folder `root` (whose links are resolved)."""
    return path.resolve().is_relative_to(root)


def _walk(
    listing: Listing, folder: Path, prefix: str, above: tuple[str, ...], *, hidden: bool
) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            problem = _problem(entry, listing.root, above) if not _is_plain(entry) else ""
            if problem:
                listing.refused[name] = problem
                continue
            apart = hidden or entry.name.startswith(".") or entry.name in _KEPT_APART
            if entry.is_symlink() and not apart:
                target = Path(os.path.realpath(entry.path))
                listing.twice[name] = target.relative_to(listing.root).as_posix()
            if not entry.is_dir():
                (listing.hidden if apart else listing.files).append(name)
                continue
            if not apart:
                listing.folders.append(name)
            below = (*above, os.path.realpath(entry.path))
            _walk(listing, Path(entry.path), name + "/", below, hidden=apart)


def _is_plain(entry: os.DirEntry[str]) -> bool:
    return not entry.is_symlink() and (entry.is_dir() or entry.is_file())


def _problem(entry: os.DirEntry[str], root: Path, above: tuple[str, ...]) -> str:
    """Why a link or a special file is left alone; nothing for a link to what is in the folder."""
    try:
        mode = entry.stat().st_mode
    except OSError:
        return "a link that leads nowhere"
    real = os.path.realpath(entry.path)
    if not Path(real).is_relative_to(root):
        return "a link that leads out of the folder"
    if real in above:
        return "a link that leads in a circle"
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        return "no regular file"
    return ""


def check_apart(dataset: str, out: Path) -> None:
    """Raise where `out` lies in the folder `dataset`: what is written would be read as data."""
    folder = Path(dataset).expanduser()
    if folder.is_dir() and is_inside(out.expanduser(), folder.resolve()):
        raise ValueError(
            f"out={str(out)!r} lies in the data folder {dataset!r}, where what a run writes would "
            "be read as data: give an --out elsewhere."
        )
