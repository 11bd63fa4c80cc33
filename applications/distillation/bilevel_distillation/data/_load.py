"""Loading a data set by name, from a folder or from the hub."""

import difflib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ._columns import (
    find_image_column,
    find_label_column,
    find_test_split,
    find_train_split,
    read_class_names,
    read_labels,
)
from ._decode import decode_images, is_gray
from ._digits import load_digits
from ._images import ImageData
from ._presets import PRESETS, Preset
from ._quiet import quiet_datasets
from ._split import hold_out

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
else:  # heavy imports wait until they are used
    Dataset = DatasetDict = Any

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
    names, if there is one, and from the hub otherwise. Anything else is handed to
    `datasets.load_dataset`: a local folder (of Parquet files, or of images with one subfolder a
    class) or a hub name `owner/name`.

    Columns and splits that are not named are found: the image column and the label column by
    their features (integer or string columns serve as labels if there are no class labels; their
    sorted values are the class names), the splits by their usual names. Without a test split
    every fifth image of each class is held out, and the log says so. Pictures that are gray
    throughout the data set get one channel; gray pictures among colour ones get three.

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
            missing, images differ in size or cannot be decoded, or a label is out of range.

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
        return load_digits()

    preset = PRESETS.get(name)
    splits = _read_splits(name, preset)
    any_features = next(iter(splits.values())).features
    if preset is not None:
        # A local copy of a named data set may be laid out in its own way: then it is searched.
        image_column = image_column or _if_in(any_features, preset.image_column)
        label_column = label_column or _if_in(any_features, preset.label_column)
        train_split = train_split or _if_in(splits, preset.train_split)
        test_split = test_split or _if_in(splits, preset.test_split)
        resolution = resolution or preset.resolution
    train_split = find_train_split(splits, train_split, name)
    test_split = find_test_split(splits, test_split, train_split, name)
    features = splits[train_split].features
    image_column = find_image_column(features, image_column, name)
    label_column = find_label_column(features, label_column, image_column, name)

    class_names = read_class_names(splits[train_split], label_column)
    where = f"split {train_split!r} of {name!r}"
    labels = read_labels(splits[train_split], label_column, class_names, where)
    if test_split is None:
        images, kept = _pixels(splits[train_split], image_column, resolution, where)
        labels = labels[kept]
        train, test = hold_out(labels, every=5)
        if not len(test):
            raise ValueError(
                f"dataset {name!r} has no test split and fewer than 5 images in every class, too "
                "few to hold some out; add a test split or more images."
            )
        _log.warning(
            "Dataset %r has no test split: every fifth image of each class is held out, %d of %d.",
            name,
            len(test),
            len(labels),
        )
        train_labels, test_labels = labels[train], labels[test]
        train_images, test_images = images[train], images[test]
    else:
        test_where = f"split {test_split!r} of {name!r}"
        test_labels = read_labels(splits[test_split], label_column, class_names, test_where)
        test_images, kept = _pixels(splits[test_split], image_column, resolution, test_where)
        test_labels = test_labels[kept]
        train_images, kept = _pixels(splits[train_split], image_column, resolution, where)
        train_labels = labels[kept]
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


def _pixels(
    rows: Dataset, column: str, resolution: int | None, where: str
) -> tuple[np.ndarray, np.ndarray]:
    import datasets

    if column not in rows.features:
        raise ValueError(
            f"image column {column!r} is missing in {where}; choose another split, or name the "
            "column that all splits have with image_column=."
        )
    if not isinstance(rows.features[column], datasets.Image):
        kind = rows.features[column]
        try:
            rows = rows.cast_column(column, datasets.Image())
        except Exception as error:
            raise ValueError(
                f"image_column is {column!r}, which holds {kind} in {where}; name a column that "
                "holds image files."
            ) from error
    return decode_images(rows, column, resolution, where)


def _read_splits(name: str, preset: Preset | None) -> DatasetDict:
    """The splits of a data set, wherever it is."""
    import datasets
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    source, config = name, None
    if preset is not None:
        home = os.environ.get("BILEVEL_DATA")
        local = Path(home).expanduser() / name if home else None
        if local is not None and local.is_dir():
            source = str(local)
        else:
            source, config = preset.hub, preset.config
    elif Path(name).is_file():
        raise ValueError(f"dataset is {name!r}, a file; give the folder that holds it.")
    elif not Path(name).expanduser().is_dir():
        _check_hub_name(name)
    else:
        source = str(Path(name).expanduser())

    try:
        with quiet_datasets():
            if (Path(source) / "dataset_dict.json").is_file():
                return _as_splits(datasets.load_from_disk(source))
            return _as_splits(datasets.load_dataset(source, config))
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
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"dataset {name!r} cannot be read ({reason}); check that it is a folder of Parquet "
            "files, or of images with one subfolder a class."
        ) from error


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
    guess = f"did you mean {close[0]!r}?" if close else f"the names are {', '.join(known)};"
    raise FileNotFoundError(
        f"dataset {name!r} is neither a known name nor a folder: {guess} Otherwise give a folder "
        "or a hub name 'owner/name'."
    )


def _as_splits(loaded: Any) -> DatasetDict:
    import datasets

    if isinstance(loaded, datasets.DatasetDict):
        return loaded
    return datasets.DatasetDict({"train": loaded})


def _if_in(among: Any, key: str) -> str | None:
    return key if key in among else None
