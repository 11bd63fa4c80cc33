"""The learned labels on the page: a table of numbers, or a picture where there are many."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int

from ._images import png

_MOST_ROWS, _MOST_COLUMNS, _MOST_PAIRS = 40, 20, 12
_BLUE, _RED = (37, 99, 168), (194, 65, 12)


@dataclass(frozen=True)
class Entry:
    """One number of a label: as text, its strength from 0 to 1, and whether it is below zero."""

    text: str
    strength: float
    negative: bool


@dataclass(frozen=True)
class Labels:
    """What the template needs to show the labels.

    Attributes:
        columns: the class names.
        rows: a name and entries for each image or class; empty where there is a picture.
        averaged: whether a row is the mean over the images of a class.
        picture: a data URI with one pixel an entry, row for row, empty where there is a table.
        pairs: class, other class and the mean label that the first gives the second; the largest.
        largest: the largest absolute value, which has the full colour.
    """

    columns: tuple[str, ...]
    rows: list[tuple[str, list[Entry]]]
    averaged: bool
    picture: str
    pairs: list[tuple[str, str, str]]
    largest: str


def show_labels(
    labels: Float32[np.ndarray, "n classes"],
    classes: Int[np.ndarray, " n"],
    class_names: tuple[str, ...],
) -> Labels:
    """The labels of all images, or their mean over each class if there are more than 40."""
    present = np.unique(classes)
    averaged = len(classes) > _MOST_ROWS or len(class_names) > _MOST_COLUMNS
    if averaged:
        values = np.stack([labels[classes == label].mean(0) for label in present])
        of = present
    else:
        order = np.argsort(classes, kind="stable")
        values, of = labels[order], classes[order]
    names = [class_names[int(label)] for label in of]
    largest = float(np.abs(values).max()) or 1.0
    as_table = len(class_names) <= _MOST_COLUMNS
    rows = []
    if as_table:
        for name, row in zip(names, values, strict=True):
            rows.append((name, [_entry(float(value), largest) for value in row]))
    return Labels(
        columns=class_names,
        rows=rows,
        averaged=averaged,
        picture="" if as_table else _picture(values, largest),
        pairs=[] if as_table else _pairs(values, of, class_names),
        largest=number(largest),
    )


def number(value: float) -> str:
    """Two decimals, with a true minus sign, and no sign before zero."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")


def _entry(value: float, largest: float) -> Entry:
    return Entry(number(value), round(abs(value) / largest, 2), value < 0)


def _picture(values: Float[np.ndarray, "rows classes"], largest: float) -> str:
    """Strength is opacity, so that it goes with light and dark paper."""
    colours = np.where(values[..., None] < 0, _RED, _BLUE)
    opacity = np.rint(255 * np.abs(values) / largest)[..., None]
    return png(np.concatenate([colours, opacity], -1).astype(np.uint8))


def _pairs(values, of, class_names) -> list[tuple[str, str, str]]:
    others = values.copy()
    others[np.arange(len(of)), of] = -np.inf
    best = others.argmax(1)
    strength = others[np.arange(len(of)), best]
    order = np.argsort(-strength, kind="stable")[:_MOST_PAIRS]
    return [
        (class_names[int(of[i])], class_names[int(best[i])], number(float(strength[i])))
        for i in order
    ]
