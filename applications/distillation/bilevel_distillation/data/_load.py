"""Loading a data set by name, from a folder or from the hub."""

import difflib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ._columns import (
    find_image_column,
    find_label_column,
    find_test_split,
    find_train_split,
    read_class_names,
    read_labels,
)
from ._decode import Decoded, bring_to_bytes, decode_images, is_gray
from ._digits import load_digits
from ._images import ImageData
from ._kinds import ARCHIVES
from ._local import read_local
from ._presets import PRESETS, Preset
from ._quiet import quiet_datasets
from ._rows import DatasetRows, Rows
from ._split import hold_out
from ._words import split_of_folder

_log = logging.getLogger(__name__)


def load(
    dataset: str | os.PathLike[str],
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    resolution: int | None = None,
) -> ImageData:
    """Load a labelled image data set into memory.

    `digits` comes with scikit-learn and needs no network. The other names in `PRESETS` are read
    from the folder of that name in the directory that the environment variable `BILEVEL_DATA`
    names, if there is one, and from the hub otherwise. Anything else is a local folder (of Parquet
    files, of images with one subfolder a class, or what `save_to_disk` of the `datasets` library
    wrote), or a hub name `owner/name`. A local folder is read as it is, with no cache, and nothing
    outside of it: links that lead out are not followed. What of it is not used is named by the log.

    Columns and splits that are not named are found: the image column and the label column by
    their features (integer or string columns serve as labels if there are no class labels; their
    sorted values are the class names), the splits by their usual names. Classes of the test split
    are matched to those of the training split by name. Without a test split every fifth image of
    each class is held out, and the log says so. Pictures that are gray throughout the data set get
    one channel; gray pictures among colour ones get three. Pictures of more than 8 bits are scaled
    by the range of the set.

    Args:
        dataset: a name, a local folder, or a hub name `owner/name`.
        image_column: the column with the images.
        label_column: the column with the classes.
        train_split: the split to distil.
        test_split: the split to evaluate on.
        resolution: height and width in pixels. The shorter side of each image is resized to it
            and the middle square kept.

    Returns:
        The data set, as `uint8` pixels and `int32` labels.

    Raises:
        FileNotFoundError: if there is no such name or folder, or the hub cannot be reached.
        ValueError: if there is no image or label column, a column or split that was asked for is
            missing, images differ in size, cannot be decoded or do not fit into memory, a label
            is none of the classes, or the layout of a folder is not clear.

    Example:
        ```python
        from bilevel_distillation.data import load

        digits = load("digits")
        digits.train_images.shape  # (1201, 8, 8, 1)
        ```
    """
    name = os.fspath(dataset)
    if resolution is not None and resolution < 1:
        raise ValueError(f"resolution is {resolution}; give a number of pixels of at least 1.")
    if name == "digits":
        asked = (image_column, label_column, train_split, test_split, resolution)
        if any(value is not None for value in asked):
            raise ValueError(
                "dataset 'digits' is fixed; leave out image_column, label_column, train_split, "
                "test_split and resolution."
            )
        if Path(name).is_dir():
            _tell_namesake(name)
        return load_digits()

    preset = PRESETS.get(name)
    splits = _read_splits(name, preset, image_column)
    any_features = next(iter(splits.values())).features
    if preset is not None:
        # A local copy of a named data set may be laid out in its own way: then it is searched.
        image_column = image_column or _if_in(any_features, preset.image_column)
        label_column = label_column or _if_in(any_features, preset.label_column)
        train_split = train_split or _if_in(splits, preset.train_split)
        test_split = test_split or _if_in(splits, preset.test_split)
        resolution = resolution or preset.resolution
    asked, train_split = train_split, find_train_split(splits, train_split, name)
    if asked is None and split_of_folder(train_split) not in ("train", None):
        _log.warning("Dataset %r has no training split: its only one, %r, is trained on.", name,
                     train_split)  # fmt: skip
    test_split = find_test_split(splits, test_split, train_split, name)
    train = splits[train_split]
    test = None if test_split is None else splits[test_split]
    _tell_unused(splits, (train_split, test_split), name)
    image_column = find_image_column(train.features, image_column, name)
    label_column = find_label_column(train.features, label_column, image_column, name)

    class_names = read_class_names(train, label_column)
    if len(class_names) < 2:
        raise ValueError(
            f"dataset {name!r} has one class alone, {', '.join(class_names)!r}: give one of at "
            "least two classes, for a folder of images one subfolder each."
        )
    where = f"split {train_split!r} of {name!r}"
    labels = read_labels(train, label_column, class_names, where)
    if test is None:
        found = _pixels(train, image_column, resolution, where, copies=2)
        bring_to_bytes([found])
        left = labels[found.kept]
        rows, held = _hold_out(left, name)
        train_labels, test_labels = left[rows], left[held]
        train_images, test_images = found.pixels[rows], found.pixels[held]
    else:
        test_where = f"split {test_split!r} of {name!r}"
        test_labels = read_labels(test, label_column, class_names, test_where)
        tests = _pixels(test, image_column, resolution, test_where, beside=len(train))
        trains = _pixels(train, image_column, resolution, where, beside=len(test))
        bring_to_bytes([trains, tests])
        train_labels, train_images = labels[trains.kept], trains.pixels
        test_labels, test_images = test_labels[tests.kept], tests.pixels
    _check_classes(labels, train_labels, test_labels, class_names, name)
    if is_gray(train_images) and is_gray(test_images):
        train_images = np.ascontiguousarray(train_images[..., :1])
        test_images = np.ascontiguousarray(test_images[..., :1])
    return ImageData(
        name=Path(name).expanduser().resolve().name if Path(name).expanduser().is_dir() else name,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        class_names=class_names,
    )


def _hold_out(labels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    rows, held = hold_out(labels, every=5)
    if not len(held):
        raise ValueError(
            f"dataset {name!r} has no test split and fewer than 5 images in every class, too "
            "few to hold some out; add a test split or more images."
        )
    _log.warning(
        "Dataset %r has no test split: every fifth image of each class is held out, %d of %d.",
        name,
        len(held),
        len(labels),
    )
    return rows, held


def _check_classes(
    before: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    class_names: tuple[str, ...],
    name: str,
) -> None:
    """Raise where a class has lost all its pictures; warn where it has none to test on."""
    lost = sorted(set(before.tolist()) - set(train.tolist()) - set(test.tolist()))
    if lost:
        raise ValueError(
            f"no picture of class {class_names[lost[0]]!r} of {name!r} can be decoded: convert "
            "them, or take the class out."
        )
    untested = sorted(set(train.tolist()) - set(test.tolist()))
    if untested:
        _log.warning(
            "Dataset %r has no test images of %d of its %d classes: %s.",
            name,
            len(untested),
            len(class_names),
            ", ".join(repr(class_names[label]) for label in untested[:5]),
        )


def _tell_unused(splits: Mapping[str, Rows], used: tuple[str | None, ...], name: str) -> None:
    if name in PRESETS:
        return
    for split, rows in splits.items():
        if split not in used:
            _log.warning(
                "Dataset %r: the %d images of split %r are not used.", name, len(rows), split
            )


def _pixels(rows: Rows, column: str, resolution: int | None, where: str, **room: int) -> Decoded:
    import datasets

    if column not in rows.features:
        raise ValueError(
            f"image column {column!r} is missing in {where}; choose another split, or name the "
            "column that all splits have with image_column=."
        )
    kind = rows.features[column]
    holds = {"bytes", "path"} & set(kind) if isinstance(kind, dict) else set()
    dtype = str(getattr(kind, "dtype", ""))
    files = dtype in ("string", "large_string", "binary", "large_binary")
    if not (isinstance(kind, datasets.Image) or holds or files):
        raise ValueError(
            f"image_column is {column!r}, which holds {kind} in {where}; name a column that "
            "holds image files."
        )
    return decode_images(rows, column, resolution, where, **room)


def _read_splits(name: str, preset: Preset | None, image_column: str | None) -> Mapping[str, Rows]:
    """The splits of a data set, wherever it is."""
    local = Path(name).expanduser()
    if preset is not None:
        home = os.environ.get("BILEVEL_DATA")
        if Path(name).is_dir():
            _tell_namesake(name)
        local = Path(home).expanduser() / name if home else None
        if local is None or not local.is_dir():
            return _read_hub(name, preset.hub, preset)
    elif local.is_file():
        remedy = "unpack it, and give the folder" if local.suffix.lower() in ARCHIVES else (
            "give the folder that holds it")  # fmt: skip
        raise ValueError(f"dataset is {name!r}, a file; {remedy}.")
    elif not local.is_dir():
        _check_hub_name(name)
        return _read_hub(name, name, None)
    try:
        return read_local(local, name, image_column)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"dataset {name!r} cannot be read ({_reason(error)}); check that it is a folder of "
            "Parquet files, or of images with one subfolder a class."
        ) from error


def _read_hub(name: str, source: str, preset: Preset | None) -> Mapping[str, Rows]:
    import datasets
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    if Path(source).exists():
        raise ValueError(
            f"dataset {name!r} is {source!r} on the hub, in whose place the folder of that name "
            "here would be read; start in another folder, or set BILEVEL_DATA."
        )
    try:
        with quiet_datasets():
            loaded: Any = datasets.load_dataset(source, None if preset is None else preset.config)
    except (ConnectionError, DatasetNotFoundError) as error:
        remedy = (
            f"or set BILEVEL_DATA to a directory with a folder {name!r} in it"
            if preset is not None
            else "or give a local folder"
        )
        raise FileNotFoundError(
            f"dataset {name!r} was not found: there is no such folder here, and the hub has no "
            f"{source!r} or could not be reached; check the name and the network, {remedy}."
        ) from error
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise ValueError(
            f"dataset {name!r} cannot be read from the hub ({_reason(error)}); check its page "
            "there, or give a local folder."
        ) from error
    if not isinstance(loaded, datasets.DatasetDict):
        loaded = {"train": loaded}
    return {str(split): DatasetRows(rows) for split, rows in loaded.items()}


def _tell_namesake(name: str) -> None:
    _log.warning(
        "Dataset %r is the known one of that name, not the folder that is here: give './%s' for "
        "that.",
        name,
        name,
    )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _check_hub_name(name: str) -> None:
    """Refuse at once what can be neither a hub name nor a folder that is there."""
    owner, slash, rest = name.partition("/")
    if slash and owner not in ("", ".", "..", "~") and rest and "/" not in rest:
        return
    if slash:
        raise FileNotFoundError(
            f"dataset {name!r} is not a folder; check the path, or give a hub name 'owner/name'."
        )
    known = ("digits", *PRESETS)
    close = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1)
    guess = f"did you mean {close[0]!r}? Otherwise give" if close else (
        f"the names are {', '.join(known)}; for other data give")  # fmt: skip
    raise FileNotFoundError(
        f"dataset {name!r} is neither a known name nor a folder: {guess} a folder or a hub name "
        "'owner/name'."
    )


def _if_in(among: Any, key: str) -> str | None:
    return key if key in among else None
