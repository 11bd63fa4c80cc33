"""A folder of pictures: which of its folders are splits, which are classes."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ._kinds import is_called_picture, is_note, is_picture
from ._listing import Listing
from ._metadata import Metadata, read_metadata
from ._rows import FolderRows
from ._words import in_order, split_of_folder

if TYPE_CHECKING:
    from datasets import Features
else:  # heavy imports wait until they are used
    Features = Any

_log = logging.getLogger(__name__)

MOST_LEFT = 0.1
"""Share of the pictures that may lie where no class is."""


@dataclass
class _Node:
    """A folder: its pictures, other files that are no notes, and the folders in it."""

    path: str
    pictures: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    children: dict[str, "_Node"] = field(default_factory=dict)

    def all_pictures(self) -> Iterator[str]:
        yield from self.pictures
        for child in self.children.values():
            yield from child.all_pictures()

    def all_others(self) -> Iterator[str]:
        yield from self.others
        for child in self.children.values():
            yield from child.all_others()

    def filled(self) -> dict[str, "_Node"]:
        """The folders in it that hold pictures, however deep."""
        return {name: child for name, child in self.children.items() if child.is_filled()}

    def is_filled(self) -> bool:
        return next(self.all_pictures(), None) is not None

    def holders(self) -> int:
        """How many folders hold pictures themselves, this one included."""
        return bool(self.pictures) + sum(child.holders() for child in self.children.values())

    def is_nested(self) -> bool:
        return not self.pictures and self.is_filled()


def read_folder(listing: Listing, name: str) -> dict[str, FolderRows]:
    """The splits of a folder of pictures, with a class folder's pictures under its name.

    Words such as `train` make a split of a folder that holds class folders itself, and of nothing
    else. What is not used is named by the log.

    Raises:
        ValueError: there are no pictures, or it is not clear which folders the classes are.
    """
    tree = _grow(listing, name)
    if not tree.is_filled():
        raise ValueError(_nothing_there(listing, name))
    metadata = read_metadata(listing, name)
    passed: list[_Node] = []
    found = {}
    for split, node in _find_splits(tree, name, passed).items():
        where = f"folder {node.path!r} of {name!r}" if node.path else f"dataset {name!r}"
        found[split] = _rows(listing, _unwrapped(node, passed), metadata, where)
    for node in passed:
        _tell_empty(node, f"dataset {name!r}")
    others = sorted(tree.all_others())
    if others:
        _log.warning(
            "%d files of dataset %r are no pictures, and are left out: %s.",
            len(others),
            name,
            some(others),
        )
    tell_hidden(listing, name)
    return found


def read_pictures(
    listing: Listing, splits: dict[str, list[str]], name: str
) -> dict[str, FolderRows]:
    """The same where it is told which files are of which split."""
    metadata = read_metadata(listing, name)
    found = {}
    for split, files in splits.items():
        only = Listing(listing.root, files, refused=listing.refused)
        node = _unwrapped(_grow(only, name), [], any_name=True)
        found[split] = _rows(only, node, metadata, f"split {split!r} of dataset {name!r}")
    used = {file for files in splits.values() for file in files}
    rest = [file for file in listing.files if file not in used and is_picture(file, listing.root)]
    if rest:
        _log.warning(
            "%d pictures of dataset %r are in no split that its README names, and are left out: "
            "%s.",
            len(rest),
            name,
            some(rest),
        )
    tell_hidden(listing, name)
    return found


def _grow(listing: Listing, name: str) -> _Node:
    root = _Node("")

    def at(path: str) -> _Node:
        node = root
        for part in path.split("/") if path else ():
            node = node.children.setdefault(part, _Node(f"{node.path}/{part}".lstrip("/")))
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


def _find_splits(node: _Node, name: str, passed: list[_Node]) -> dict[str, _Node]:
    """The folder of each split; all is `train` where no folder is one.

    `passed` gets the folders above them.
    """
    node = _unwrapped(node, passed)
    tops = node.filled()
    words = {top: split for top in tops if (split := split_of_folder(top))}
    if not any(tops[top].is_nested() for top in words):
        return {"train": node}
    passed.append(node)
    return _splits(node, tops, words, name)


def _unwrapped(node: _Node, passed: list[_Node], *, any_name: bool = False) -> _Node:
    """Without the folders around all, as many archives have them."""
    tops = node.filled()
    if node.pictures or len(tops) != 1:
        return node
    ((top, only),) = tops.items()
    if not only.is_nested() or (split_of_folder(top) and not any_name):
        return node
    passed.append(node)
    return _unwrapped(only, passed, any_name=any_name)


def _splits(
    node: _Node, tops: dict[str, _Node], words: dict[str, str], name: str
) -> dict[str, _Node]:
    others = [top for top in tops if top not in words]
    flat = [top for top in others if tops[top].pictures]
    if flat:
        word = next(top for top in words if tops[top].is_nested())
        raise ValueError(
            f"dataset {name!r} has a folder {word!r} that holds folders, as a split does, beside "
            f"{flat[0]!r} that holds pictures, as a class does: move one of them away, or move the "
            f"pictures of {word!r} together if it is a class."
        )
    splits: dict[str, _Node] = {}
    for top, child in tops.items():
        split = words.get(top, top)
        if not child.is_nested() and not child.filled():
            _log.warning(
                "Folder %r of dataset %r holds %d pictures and no class folders: it is not used.",
                child.path,
                name,
                len(child.pictures),
            )
        elif split in splits:
            raise ValueError(
                f"dataset {name!r} has two folders for the split {split!r}, "
                f"{splits[split].path!r} and {child.path!r}: put them together."
            )
        else:
            splits[split] = child
    return {split: splits[split] for split in in_order(splits)}


def _rows(listing: Listing, node: _Node, metadata: Metadata, where: str) -> FolderRows:
    import datasets

    features: dict[str, Any] = {"image": datasets.Image()}
    if not node.filled() and metadata.describes(node.pictures):
        files = sorted(node.pictures)
        columns, kinds = metadata.columns(files)
    else:
        classes = _classes(node, where)
        names = sorted(classes)
        place = {file: i for i, label in enumerate(names) for file in classes[label]}
        files = sorted(place)
        columns, kinds = metadata.columns(files, beside=[names[place[file]] for file in files])
        columns["label"] = [place[file] for file in files]
        features["label"] = datasets.ClassLabel(names=names)
    every = datasets.Features({**features, **kinds})
    return FolderRows(listing.root, files, columns, every, listing.refused)


def _classes(node: _Node, where: str) -> dict[str, list[str]]:
    """The pictures of each class folder."""
    tops = node.filled()
    if not tops:
        raise ValueError(
            f"{where} holds {len(node.pictures)} pictures and no class folders: put the pictures "
            "of each class into a folder of its own, or name their classes in a metadata.csv with "
            "the columns file_name and label."
        )
    _check_empty(node, where)
    several = [top for top, child in tops.items() if child.holders() > 1]
    if several and not any(child.pictures for child in tops.values()):
        deep = next(iter(tops[several[0]].filled()))
        raise ValueError(
            f"{where} has folders in its folders: the classes may be {', '.join(map(repr, tops))} "
            f"or those in them, such as {deep!r}; move the pictures of each class into one folder, "
            "all of these side by side."
        )
    if several:
        _log.warning(
            "The folders in %s of %s are taken as parts of these classes.",
            ", ".join(map(repr, several)),
            where,
        )
    classes = {_readable(top): list(child.all_pictures()) for top, child in tops.items()}
    if node.pictures:
        _tell_unclassed(node, sum(map(len, classes.values())), where)
    return classes


def _check_empty(node: _Node, where: str) -> None:
    """Of class folders without a picture: a warning, or an error where files are in them."""
    for top, child in node.children.items():
        others = [] if child.is_filled() else list(child.all_others())
        if others:
            raise ValueError(
                f"class folder {top!r} of {where} holds no picture that can be read, only files "
                f"such as {others[0]!r}: convert them, e.g. to .png, or move the folder away."
            )
    _tell_empty(node, where)


def _tell_empty(node: _Node, where: str) -> None:
    for top, child in node.children.items():
        if not child.is_filled():
            _log.warning("Folder %r of %s holds no pictures, and is no class.", top, where)


def _tell_unclassed(node: _Node, classed: int, where: str) -> None:
    named = some(node.pictures)
    if len(node.pictures) > MOST_LEFT * (len(node.pictures) + classed):
        raise ValueError(
            f"{len(node.pictures)} pictures of {where} lie in no class folder ({named}): move each "
            "into the folder of its class, or away."
        )
    _log.warning(
        "%d pictures of %s lie in no class folder, and are left out: %s.",
        len(node.pictures),
        where,
        named,
    )


def tell_hidden(listing: Listing, name: str) -> None:
    """Name the pictures whose names, or folders, begin with a dot."""
    hidden = [file for file in listing.hidden if is_called_picture(file)]
    if hidden:
        _log.warning(
            "%d hidden pictures of dataset %r are left out: %s.", len(hidden), name, some(hidden)
        )


def _nothing_there(listing: Listing, name: str) -> str:
    archives = [file for file in listing.files if not is_note(file)]
    if not archives:
        return (
            f"dataset {name!r} is a folder without data: give one with Parquet files, or with one "
            "subfolder of pictures a class."
        )
    return (
        f"dataset {name!r} holds no pictures and no Parquet files, only files such as "
        f"{archives[0]!r}: unpack or convert them to a folder of pictures for each class."
    )


def _readable(name: str) -> str:
    """A folder's name as text, also where it is none in the system's encoding."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more
