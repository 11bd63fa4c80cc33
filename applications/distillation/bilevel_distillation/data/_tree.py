"""Folders as a tree of what lies in them."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from ._kinds import is_called_picture, is_note, is_picture
from ._listing import Listing

_log = logging.getLogger(__name__)


@dataclass
class Node:
    """A folder: its pictures, other files that are no notes, and the folders in it."""

    path: str
    pictures: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    children: dict[str, "Node"] = field(default_factory=dict)

    def all_pictures(self) -> Iterator[str]:
        yield from self.pictures
        for child in self.children.values():
            yield from child.all_pictures()

    def all_others(self) -> Iterator[str]:
        yield from self.others
        for child in self.children.values():
            yield from child.all_others()

    def filled(self) -> dict[str, "Node"]:
        """The folders in it that hold pictures, however deep."""
        return {name: child for name, child in self.children.items() if child.is_filled()}

    def is_filled(self) -> bool:
        return next(self.all_pictures(), None) is not None

    def holders(self) -> int:
        """How many folders hold pictures themselves, this one included."""
        return bool(self.pictures) + sum(child.holders() for child in self.children.values())

    def is_nested(self) -> bool:
        return not self.pictures and self.is_filled()


def grow(listing: Listing, name: str) -> Node:
    """The tree of a listing, without what may not be followed, of which the log tells.

    Raises:
        ValueError: a folder or file is missing behind a link that is not followed.
    """
    root = Node("")

    def at(path: str) -> Node:
        node = root
        for part in path.split("/") if path else ():
            node = node.children.setdefault(part, Node(f"{node.path}/{part}".lstrip("/")))
        return node

    for folder in listing.folders:
        at(folder)
    for file in listing.files:
        node = at(file.rpartition("/")[0])
        if is_picture(file, listing.root):
            node.pictures.append(file)
        elif not is_note(file):
            node.others.append(file)
    for path, why in listing.refused.items():
        node = at(path.rpartition("/")[0])
        if is_called_picture(path):
            node.pictures.append(path)
        elif "circle" in why or "regular" in why:
            _log.warning("%r of dataset %r is %s, and is left out.", path, name, why)
        elif not is_note(path):
            raise ValueError(
                f"{path!r} of dataset {name!r} is {why}, which is not followed: put what it leads "
                "to in its place, e.g. with `cp -rL`, or remove it."
            )
    return root
