"""Reading a local folder: by what it holds, and never by what was read before."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._card import CARD, read_patterns
from ._folder import read_folder, read_pictures, tell_hidden
from ._kinds import TABLES, is_picture
from ._listing import Listing, is_inside, listed
from ._quiet import quiet_datasets
from ._rows import DatasetRows, FileRows, Rows, is_pointer, schema_of
from ._words import in_order, some, split_of_file

if TYPE_CHECKING:
    from datasets import Features
else:  # heavy imports wait until they are used
    Features = Any

_log = logging.getLogger(__name__)


def read_local(folder: Path, name: str, column: str | None = None) -> Mapping[str, Rows]:
    """The splits of a folder: of Parquet or Arrow files, as `Dataset.save_to_disk` leaves it, or of
    pictures with one subfolder a class.

    Nothing outside of the folder is read, whatever links and names it holds. Beside pictures only
    tables count that have images, or the image column that was asked for.

    Raises:
        OSError: a file or folder cannot be read.
        ValueError: there are no data that can be read, or their layout is not clear.
    """
    saved = ("dataset_dict.json",), ("state.json", "dataset_info.json")
    if any(all((folder / one).is_file() for one in names) for names in saved):
        return _read_saved(folder.resolve(), name)
    listing = listed(folder)
    patterns = read_patterns(listing, name)
    if isinstance(patterns, str):
        if not is_inside(listing.root / patterns, listing.root):
            raise ValueError(
                f"{CARD} of dataset {name!r} names the folder {patterns!r}, which lies outside: "
                "mend the README."
            )
        if patterns != ".":
            return read_local(listing.root / patterns, name, column)
    elif patterns is not None:
        files = {file for files in patterns.values() for file in files}
        tables = {file for file in files if _is_table(file)}
        if tables and tables != files:
            raise ValueError(
                f"{CARD} of dataset {name!r} names Parquet files and others, such as "
                f"{min(files - tables)!r}: name one kind."
            )
        read = _read_tables if tables else read_pictures
        return read(listing, patterns, name)
    splits = _table_splits(listing, name)
    if splits and _hold_images(listing, splits, name, column):
        return _read_tables(listing, splits, name)
    return read_folder(listing, name)


def _hold_images(
    listing: Listing, splits: dict[str, list[str]], name: str, column: str | None
) -> bool:
    """Whether the images are in the tables, and not in pictures beside them."""
    import datasets

    if not any(is_picture(file, listing.root) for file in listing.files):
        return True
    told = _told_features(listing)
    for file in (file for files in splits.values() for file in files):
        features = _features(listing.root / file, told, name)
        kinds = {str(getattr(kind, "dtype", "")) for kind in features.values()}
        if column in features or kinds & {"binary", "large_binary"} or any(
            isinstance(kind, datasets.Image) or isinstance(kind, dict) and "bytes" in kind
            for kind in features.values()
        ):  # fmt: skip
            return True
    return False


def _is_table(file: str) -> bool:
    return Path(file).suffix.lower() in TABLES and Path(file).stem.lower() != "metadata"


def _table_splits(listing: Listing, name: str) -> dict[str, list[str]]:
    """Which Parquet or Arrow files belong to which split, by their names."""
    splits: dict[str | None, list[str]] = {}
    for file in filter(_is_table, listing.files):
        splits.setdefault(split_of_file(file), []).append(file)
    unknown = splits.pop(None, [])
    if not splits:
        return {"train": unknown} if unknown else {}
    if unknown:
        _log.warning(
            "%d files of dataset %r name no split, and are not used: %s.",
            len(unknown),
            name,
            some(unknown),
        )
    return {split: splits[split] for split in in_order(filter(None, splits))}


def _read_tables(listing: Listing, splits: dict[str, list[str]], name: str) -> dict[str, Rows]:
    for path, why in listing.refused.items():
        if _is_table(path):
            raise ValueError(
                f"{path!r} of dataset {name!r} is {why}, which is not followed: put the file "
                "itself there, e.g. with `cp -L`, or remove it."
            )
    told = _told_features(listing)
    found: dict[str, Rows] = {}
    for split, files in splits.items():
        features: Features | None = None
        for file in files:
            own = _features(listing.root / file, told, name)
            if features is not None and own != features:
                raise ValueError(
                    f"{file!r} of dataset {name!r} has other columns or classes than "
                    f"{files[0]!r}, which is of the same split {split!r}: write both alike, or "
                    "move one away."
                )
            features = own
        assert features is not None
        found[split] = FileRows([listing.root / file for file in files], features, listing.root)
    pictures = [file for file in listing.files if is_picture(file, listing.root)]
    if pictures:
        _log.warning(
            "%d pictures beside the Parquet files of dataset %r are not used: %s.",
            len(pictures),
            name,
            some(pictures),
        )
    tell_hidden(listing, name)
    return found


def _features(path: Path, told: list[Features], name: str) -> Features:
    """What the columns of a file hold: as it says itself, else as the README says."""
    import datasets

    try:
        schema = schema_of(path)
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        if is_pointer(path):
            reason = "it is a pointer of Git LFS: `git lfs pull` fetches the file"
        raise ValueError(
            f"{path.name!r} of dataset {name!r} cannot be read ({reason}): fetch or write it "
            "again, or move it away."
        ) from error
    own = datasets.Features.from_arrow_schema(schema)
    if b"huggingface" in (schema.metadata or {}):
        return own
    fitting = [features for features in told if list(features) == list(own)]
    return fitting[0] if fitting else own


def _told_features(listing: Listing) -> list[Features]:
    from datasets.info import DatasetInfosDict

    if CARD not in listing.files and "dataset_infos.json" not in listing.files:
        return []
    try:
        infos = DatasetInfosDict.from_directory(str(listing.root))
    except Exception:  # what it says is a help where files say nothing themselves
        return []
    return [info.features for info in infos.values() if info.features is not None]


def _read_saved(root: Path, name: str) -> dict[str, Rows]:
    """What `save_to_disk` of the `datasets` library wrote, of which each file is checked first."""
    import datasets

    folders = [root]
    if (root / "dataset_dict.json").is_file():
        splits = _json(root / "dataset_dict.json", name).get("splits", [])
        folders = [root / str(split) for split in splits]
    for folder in folders:
        state = _json(folder / "state.json", name)
        named = [folder / str(one.get("filename")) for one in state.get("_data_files", [])]
        for path in (folder, *named, folder / "dataset_info.json"):
            if not is_inside(path, root):
                raise ValueError(
                    f"dataset {name!r} names {str(path)!r}, outside of its folder: put the file "
                    "itself there, or save the data set again."
                )
    with quiet_datasets():
        loaded = datasets.load_from_disk(str(root))
    if isinstance(loaded, datasets.DatasetDict):
        return {str(split): DatasetRows(rows, root) for split, rows in loaded.items()}
    return {"train": DatasetRows(loaded, root)}


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path.name} of dataset {name!r} is damaged ({error}): save the data set again."
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} of dataset {name!r} is damaged: save the data set again.")
    return found
