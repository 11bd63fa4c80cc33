"""Which columns and splits of a data set hold what."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int32

from ._rows import Rows
from ._words import composed, same_split, some

if TYPE_CHECKING:
    from datasets import Features
else:  # heavy imports wait until they are used
    Features = Any

_TEST_SPLITS = ("test", "validation", "valid", "val")
_LABEL_NAMES = ("label", "labels", "class", "target")


def find_image_column(features: Features, asked: str | None, name: str) -> str:
    """The column with the images: the one asked for, else the one with the Image feature."""
    import datasets

    if asked is not None:
        return _present(asked, features, "image_column", name)
    found = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
    if not found:
        raise ValueError(
            f"dataset {name!r} has no image column among {_listed(features)}; name one that holds "
            "image files with image_column=, or choose a data set with images."
        )
    if len(found) > 1 and "image" not in found:
        raise ValueError(
            f"dataset {name!r} has several image columns, {_listed(found)}; choose one with "
            "image_column=."
        )
    return "image" if "image" in found else found[0]


def find_label_column(features: Features, asked: str | None, image_column: str, name: str) -> str:
    """The column with the classes: the one asked for, else found by its feature."""
    import datasets

    if asked is not None:
        _present(asked, features, "label_column", name)
        if not isinstance(features[asked], datasets.ClassLabel) and not _is_label(features[asked]):
            raise ValueError(
                f"label_column is {asked!r}, which holds {features[asked]}, in dataset {name!r}; "
                "name a column of class labels, integers or strings."
            )
        return asked
    found = [key for key, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if not found:
        found = [key for key, value in features.items() if _is_label(value) and key != image_column]
    if not found:
        raise ValueError(
            f"dataset {name!r} has no label column among {_listed(features)}; it needs one with "
            "class labels, integers or strings (for a folder of images: one subfolder a class)."
        )
    if len(found) == 1:
        return found[0]
    usual = [key for key in _LABEL_NAMES if key in found]
    if not usual:
        raise ValueError(
            f"dataset {name!r} has several columns that could be the label, {_listed(found)}; "
            "choose one with label_column=."
        )
    return usual[0]


def find_train_split(splits: Mapping[str, Rows], asked: str | None, name: str) -> str:
    """The split to distil: the one asked for, else `train`, else the only one."""
    if asked is not None:
        return _split(asked, splits, "train_split", name)
    if "train" in splits:
        return "train"
    if len(splits) == 1:
        return str(next(iter(splits)))
    raise ValueError(
        f"dataset {name!r} has no split 'train' among {_listed(splits)}; choose one with "
        "train_split=."
    )


def find_test_split(
    splits: Mapping[str, Rows], asked: str | None, train_split: str, name: str
) -> str | None:
    """The split to evaluate on: the one asked for, else by the usual names, else None."""
    if asked is None:
        usual = (split for split in _TEST_SPLITS if split in splits and split != train_split)
        return next(usual, None)
    found = _split(asked, splits, "test_split", name)
    if found == train_split:
        raise ValueError(
            f"test_split is {asked!r}, the split that is trained on; choose another one of "
            f"{_listed(splits)}, or leave it out to hold out a fifth."
        )
    return found


def read_class_names(rows: Rows, column: str) -> tuple[str, ...]:
    """The names in the ClassLabel feature, else the sorted distinct values of the column."""
    names = _label_names(rows, column)
    if names is not None:
        return names
    values = {value for value in rows.values(column) if value is not None}
    return tuple(str(value) for value in sorted(values))


def read_labels(
    rows: Rows, column: str, class_names: Sequence[str], where: str
) -> Int32[np.ndarray, " n"]:
    """The class of each row, as a position in `class_names`: found by name, because splits may
    number their classes differently.

    Raises:
        ValueError: if a label is missing, or its name is none of `class_names`.
    """
    place = {composed(name): i for i, name in enumerate(class_names)}
    place |= {name: i for i, name in enumerate(class_names)}
    values = rows.values(column)
    names = _label_names(rows, column)
    if names is None:
        found = {value: _place_of(value, place) for value in set(values)}
    else:
        found = {
            value: _place_of(names[value], place)
            if value is not None and 0 <= value < len(names)
            else -1
            for value in set(values)
        }
    wrong = sorted((value for value, label in found.items() if label < 0), key=str)
    if wrong:
        named = [_called(value, names) for value in wrong[:3]]
        raise ValueError(
            f"label column {column!r} of {where} holds {_listed(named)}, none of the "
            f"{len(class_names)} classes of the training split ({some(list(class_names))}); choose "
            "a labelled split with train_split= or test_split=, or another label_column=."
        )
    return np.array([found[value] for value in values], np.int32)


def _label_names(rows: Rows, column: str) -> tuple[str, ...] | None:
    import datasets

    if column not in rows.features:
        return None
    feature = rows.features[column]
    if isinstance(feature, datasets.ClassLabel) and feature.names is not None:
        return tuple(feature.names)
    return None


def _called(value: Any, names: Sequence[str] | None) -> Any:
    known = names is not None and value is not None and 0 <= value < len(names)
    return names[value] if known else value  # pyright: ignore


def _place_of(value: Any, place: Mapping[str, int]) -> int:
    negative = isinstance(value, int) and value < 0
    if value is None or negative:
        return -1
    return place.get(str(value), place.get(composed(str(value)), -1))


def _is_label(feature: Any) -> bool:
    dtype = str(getattr(feature, "dtype", ""))
    return dtype in ("string", "large_string", "bool") or dtype.startswith(("int", "uint"))


def _split(asked: str, splits: Mapping[str, Rows], argument: str, name: str) -> str:
    return same_split(asked, list(splits)) or _present(asked, splits, argument, name)


def _present(asked: str, among: Mapping[Any, Any], argument: str, name: str) -> str:
    if asked not in among:
        raise ValueError(
            f"{argument} is {asked!r}, which dataset {name!r} does not have; choose one of "
            f"{_listed(among)}."
        )
    return asked


def _listed(values: Any) -> str:
    return ", ".join(repr(value) for value in values)
