"""A folder of pictures: which of its folders are splits, which are classes."""

import logging
import os
from typing import TYPE_CHECKING, Any

from ._kinds import is_called_picture, is_note, is_picture
from ._listing import Listing
from ._metadata import Metadata, read_metadata
from ._rows import FolderRows
from ._tree import Node, grow
from ._words import composed, in_order, some, split_of_folder

if TYPE_CHECKING:
    from datasets import Features
else:  # heavy imports wait until they are used
    Features = Any

_log = logging.getLogger(__name__)

MOST_LEFT = 0.1
"""Share of the pictures that may lie where no class is."""


def read_folder(listing: Listing, name: str) -> dict[str, FolderRows]:
    """The splits of a folder of pictures, with a class folder's pictures under its name.

    Words such as `train` make a split of a folder that holds class folders itself, and of nothing
    else. What is not used is named by the log.

    Raises:
        ValueError: there are no pictures, or it is not clear which folders the classes are.
    """
    tree = grow(listing, name)
    if not tree.is_filled():
        raise ValueError(_nothing_there(listing, name))
    metadata = read_metadata(listing, name)
    passed: list[Node] = []
    splits = _find_splits(tree, name, metadata, passed)
    nodes = {split: _unwrapped(node, passed) for split, node in splits.items()}
    may_tell = all(len(node.filled()) < 2 for node in nodes.values())
    found = {}
    for split, node in nodes.items():
        path = splits[split].path
        where = f"folder {path!r} of {name!r}" if path else f"dataset {name!r}"
        found[split] = _rows(listing, node, metadata, where, may_tell)
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
        node = _unwrapped(grow(only, name), any_name=True)
        where = f"split {split!r} of dataset {name!r}"
        found[split] = _rows(only, node, metadata, where, may_tell=False)
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


def _find_splits(node: Node, name: str, metadata: Metadata, passed: list[Node]) -> dict[str, Node]:
    """The folder of each split; all is `train` where no folder is one.

    `passed` gets the folders above them.
    """
    node = _unwrapped(node, passed)
    tops = node.filled()
    words = {top: split for top in tops if (split := split_of_folder(top))}
    # Folders of pictures without classes are splits where metadata name the classes of these.
    told = {top for top in words if metadata.labels(tops[top].pictures)}
    told = told if words.keys() == tops.keys() else set()
    if not any(tops[top].is_nested() or top in told for top in words):
        return {"train": node}
    passed.append(node)
    return _splits(node, tops, words, told, name)


def _unwrapped(node: Node, passed: list[Node] | None = None, *, any_name: bool = False) -> Node:
    """Without the folders that wrap everything, as in many archives; `passed` gets those."""
    tops = node.filled()
    if node.pictures or len(tops) != 1:
        return node
    ((top, only),) = tops.items()
    if not only.is_nested() or (split_of_folder(top) and not any_name):
        return node
    if passed is not None:
        passed.append(node)
    return _unwrapped(only, passed, any_name=any_name)


def _splits(
    node: Node, tops: dict[str, Node], words: dict[str, str], told: set[str], name: str
) -> dict[str, Node]:
    others = [top for top in tops if top not in words]
    flat = [top for top in others if tops[top].pictures]
    if flat:
        word = next(top for top in words if tops[top].is_nested())
        raise ValueError(
            f"dataset {name!r} has a folder {word!r} that holds folders, as a split does, beside "
            f"{flat[0]!r} that holds pictures, as a class does: move one of them away, or move the "
            f"pictures of {word!r} together if it is a class."
        )
    splits: dict[str, Node] = {}
    classes = {top: set(_unwrapped(child).filled()) for top, child in tops.items()}
    several = [names for names in classes.values() if len(names) > 1]
    for top, child in tops.items():
        split, own = words.get(top, top), classes[top]
        # One folder that is no class elsewhere is as good as none, such as `test/images`.
        unclassed = split != "train" and len(own) == 1 and several
        unclassed = unclassed and not any(own & names for names in several)
        if top not in told and (not own or unclassed):
            _log.warning(
                "Folder %r of dataset %r holds %d pictures in no class folders: it is not used.",
                child.path,
                name,
                len(list(child.all_pictures())),
            )
        elif split in splits:
            raise ValueError(
                f"dataset {name!r} has two folders for the split {split!r}, "
                f"{splits[split].path!r} and {child.path!r}: put them together."
            )
        else:
            splits[split] = child
    return {split: splits[split] for split in in_order(splits)}


def _rows(
    listing: Listing, node: Node, metadata: Metadata, where: str, may_tell: bool
) -> FolderRows:
    """The pictures below a folder, with the folders in it as classes. A single folder is no class
    among others: there metadata give the classes, if they `may_tell`.
    """
    import datasets

    features: dict[str, Any] = {"image": datasets.Image()}
    pictures = list(node.all_pictures())
    is_flat = not node.filled() and metadata.describes(pictures)
    if is_flat or may_tell and len(node.filled()) == 1 and metadata.labels(pictures):
        files, missing = metadata.labelled(pictures)
        _tell_unclassed(missing, len(files), where, "have no label in the metadata")
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


def _classes(node: Node, where: str) -> dict[str, list[str]]:
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
    classes: dict[str, list[str]] = {}
    for top, child in tops.items():
        if (label := _readable(top)) in classes:
            _log.warning("%s has two folders %r, whose accents are written differently: they are "
                         "taken as one class.", where, label)  # fmt: skip
        classes.setdefault(label, []).extend(child.all_pictures())
    _tell_alike(list(classes), where)
    classed = sum(map(len, classes.values()))
    _tell_unclassed(node.pictures, classed, where, "lie in no class folder")
    return classes


def _tell_alike(names: list[str], where: str) -> None:
    """Warn of class folders that were perhaps meant to be one."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault("".join(name.casefold().split()), []).append(name)
    for several in alike.values():
        if len(several) > 1:
            _log.warning(
                "The class folders %s of %s differ by case or spaces alone, and stay apart.",
                some(several),
                where,
            )


def _check_empty(node: Node, where: str) -> None:
    """Warn of class folders without a picture; raise where other files are in them."""
    for top, child in node.children.items():
        others = [] if child.is_filled() else list(child.all_others())
        if others:
            raise ValueError(
                f"class folder {top!r} of {where} holds no picture that can be read, only files "
                f"such as {others[0]!r}: convert them, e.g. to .png, or move the folder away."
            )
    _tell_empty(node, where)


def _tell_empty(node: Node, where: str) -> None:
    for top, child in node.children.items():
        if not child.is_filled():
            _log.warning("Folder %r of %s holds no pictures, and is no class.", top, where)


def _tell_unclassed(pictures: list[str], classed: int, where: str, why: str) -> None:
    if not pictures:
        return
    found, named = f"{len(pictures)} pictures of {where} {why}", some(pictures)
    if len(pictures) > MOST_LEFT * (len(pictures) + classed):
        remedy = "move each into the folder of its class" if "folder" in why else (
            "add one for each")  # fmt: skip
        raise ValueError(f"{found} ({named}): {remedy}, or move them away.")
    _log.warning("%s, and are left out: %s.", found, named)


def tell_hidden(listing: Listing, name: str) -> None:
    """Name the pictures whose names, or folders, begin with a dot, and those that links double."""
    if listing.twice:
        named = [f"{link} -> {to}" for link, to in listing.twice.items()]
        _log.warning(
            "%d links of dataset %r lead to what is used under its own name too, in another class "
            "or split perhaps: %s.",
            len(named),
            name,
            some(named),
        )
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
    return composed(os.fsencode(name).decode("utf-8", "backslashreplace"))
