"""Whether a distilled set, made here or elsewhere, fits a data set."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..data import ImageData
from ._distilled import DistilledSet


def check_fit(distilled: DistilledSet, data: ImageData) -> None:
    shape, classes = distilled.images.shape[1:], distilled.labels.shape[1]
    if shape != data.image_shape or classes != data.classes:
        raise ValueError(
            f"the distilled set has images of shape {shape} and {classes} classes, but "
            f"dataset={data.name!r} has {data.image_shape} and {data.classes}: name the data set "
            "that it was distilled from."
        )


def check_preprocessed(images: np.ndarray, path: Path) -> None:
    """Raise where images are plain pixels; preprocessed ones lie on both sides of zero."""
    if images.min() < 0:
        return
    if images.max() <= 1:
        held = "pixels from 0 to 1"
    elif images.max() <= 255 and (np.rint(images) == images).all():
        held = "pixels from 0 to 255"
    else:
        return
    raise ValueError(
        f"images of {str(path)!r} are {held}, and not preprocessed: standardise them, as "
        "bilevel_distillation.data.Preprocessor does, and store those."
    )


def match_classes(
    distilled: DistilledSet, data: ImageData, say: Callable[[str], None] = lambda message: None
) -> DistilledSet:
    """The distilled set with its classes in the order of the data's, matched by their names.

    Where one side has numbers in place of names, they are matched by number, which is said.

    Raises:
        ValueError: the names differ.
    """
    ours, theirs = distilled.class_names, data.class_names
    if ours == theirs:
        return distilled
    if len(ours) == len(theirs) == len(set(ours)) and set(ours) == set(theirs):
        order = np.array([ours.index(name) for name in theirs])
        return replace(
            distilled,
            labels=distilled.labels[:, order],
            classes=np.argsort(order)[distilled.classes].astype(np.int32),
            class_names=theirs,
        )
    if len(ours) == len(theirs) and tuple(map(str, range(len(ours)))) in (ours, theirs):
        side = "the distilled set" if ours[0] == "0" else f"dataset={data.name!r}"
        say(f"{side} has numbers in place of names of classes: they are matched by number.")
        return replace(distilled, class_names=theirs)
    odd = [name for name in (*ours, *theirs) if (ours.count(name), theirs.count(name)) != (1, 1)]
    raise ValueError(
        f"the distilled set has the classes {_some(ours)}, but dataset={data.name!r} has "
        f"{_some(theirs)}, which do not match at {odd[0]!r}: name the data set that it was "
        "distilled from."
    )


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more
