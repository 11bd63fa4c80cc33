"""Names: those of splits, those that are the same text, and how a few of many are listed."""

import re
import unicodedata
from collections.abc import Iterable

_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_CANONICAL = {word: split for split, words in _WORDS.items() for word in words}
_SHARD = re.compile(r"(\w+)-\d{5}-of-\d{5}")


def split_of_folder(name: str) -> str | None:
    """The split that a folder is, in any case: `Train` and `training` are `train`."""
    return _CANONICAL.get(name.lower())


def split_of_file(path: str) -> str | None:
    """The split that a file of many rows belongs to, by its name or else by that of a folder.

    Names such as `valid-00000-of-00002.parquet` name theirs themselves.
    """
    *folders, file = path.split("/")
    stem = file.rsplit(".", 1)[0]
    shard = _SHARD.match(stem)
    if shard:
        return shard[1]
    found = {_CANONICAL[word] for word in re.split(r"[-_. ]+", stem.lower()) if word in _CANONICAL}
    if not found:
        found = {split for folder in folders if (split := split_of_folder(folder))}
    return found.pop() if len(found) == 1 else None


def in_order(splits: Iterable[str]) -> list[str]:
    """Training first, then validation, test and all others."""
    order = list(_WORDS)
    rank = {word: order.index(split) for word, split in _CANONICAL.items()}
    return sorted(splits, key=lambda split: (rank.get(split, len(order)), split))


def same_split(asked: str, splits: list[str]) -> str | None:
    """The split that was asked for, by its name or another word for it."""
    if asked in splits:
        return asked
    canonical = split_of_folder(asked)
    found = [split for split in splits if canonical and split_of_folder(split) == canonical]
    return found[0] if len(found) == 1 else None


def composed(name: str) -> str:
    """A name whose accents are parts of their letters, as systems other than macOS write it."""
    return unicodedata.normalize("NFC", name)


def some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more
