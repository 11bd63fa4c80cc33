"""The distilled images on the page: a sheet of pixels for each moment, and cells that show it."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from .._artifacts import Snapshot, choose

_MOST_BYTES = 4_500_000  # of pixels, of all moments; noise takes half as much again as text
_STRIP_MOMENTS, _STRIP_IMAGES = 5, 10


@dataclass(frozen=True)
class Moment:
    """The images after an iteration, as one picture."""

    iteration: int
    sheet: str


@dataclass(frozen=True)
class Cell:
    """An image's place: CSS that shows its part of a sheet, and words for it."""

    style: str
    words: str


@dataclass(frozen=True)
class Group:
    """The cells of a class."""

    name: str
    cells: list[Cell]


@dataclass(frozen=True)
class Gallery:
    """What the template needs to show the images.

    Attributes:
        moments: from the first to the last.
        groups: the cells, class by class.
        width, height: of a cell, in CSS pixels; a whole number for each pixel of an image.
        longest: what the largest group takes in a row, in CSS pixels.
        shown, size: how many images are shown, and how many the set has.
        strip: on paper, these moments,
        strip_cells: and these cells at each.
    """

    moments: list[Moment]
    groups: list[Group]
    width: int
    height: int
    longest: int
    shown: int
    size: int
    strip: list[int]
    strip_cells: list[Cell]


def make_gallery(snapshots: Sequence[Snapshot]) -> Gallery | None:
    """The images over time; None where there are none."""
    if not snapshots:
        return None
    first = snapshots[-1]
    bytes_each = first.images[0].size * len(snapshots)
    most = max(1, _MOST_BYTES // bytes_each)
    places = choose(first.classes, min(most, len(first.classes)))
    snapshots = [snapshot.take(places) for snapshot in snapshots]
    last = snapshots[-1]
    height, width = last.images.shape[1:3]
    columns = math.ceil(math.sqrt(len(places)))
    cells = _cells(last, columns)
    groups: dict[int, list[Cell]] = {}
    for label, cell in zip(last.classes, cells, strict=True):
        groups.setdefault(int(label), []).append(cell)
    scale = max(1, round((80 if len(places) <= 24 else 64) / max(height, width)))
    count = len(snapshots)
    strip = np.linspace(0, count - 1, min(count, _STRIP_MOMENTS)).round().astype(int)
    strip_places = choose(last.classes, min(_STRIP_IMAGES, len(places)))
    return Gallery(
        moments=[Moment(one.iteration, _sheet(one.images, columns)) for one in snapshots],
        groups=[Group(last.class_names[label], own) for label, own in groups.items()],
        width=width * scale,
        height=height * scale,
        longest=max(map(len, groups.values())) * (width * scale + 6),
        shown=len(places),
        size=last.size,
        strip=strip.tolist(),
        strip_cells=[cells[place] for place in strip_places],
    )


def _cells(snapshot: Snapshot, columns: int) -> list[Cell]:
    n, height, width = snapshot.images.shape[:3]
    rows = math.ceil(n / columns)
    sheet_width, sheet_height = columns * (width + 2), rows * (height + 2)
    size = f"{100 * sheet_width / width:.4f}% {100 * sheet_height / height:.4f}%"
    cells = []
    for i, label in enumerate(snapshot.classes):
        # What CSS calls 100 % is the sheet's last place, not its width.
        x = ((i % columns) * (width + 2) + 1) / (sheet_width - width)
        y = ((i // columns) * (height + 2) + 1) / (sheet_height - height)
        number = int(np.sum(snapshot.classes[: i + 1] == label))
        many = np.sum(snapshot.classes == label) > 1
        name = snapshot.class_names[int(label)]
        cells.append(
            Cell(
                style=f"background-size:{size};background-position:{100 * x:.4f}% {100 * y:.4f}%",
                words=f"{name}, image {number}" if many else name,
            )
        )
    return cells


def _sheet(images: UInt8[np.ndarray, "n height width channels"], columns: int) -> str:
    """A data URI; each image has a border of its own edge, which rounding may show of it."""
    n, height, width, channels = images.shape
    rows = math.ceil(n / columns)
    edged = np.pad(images, ((0, rows * columns - n), (1, 1), (1, 1), (0, 0)), mode="edge")
    grid = edged.reshape(rows, columns, height + 2, width + 2, channels)
    return png(grid.swapaxes(1, 2).reshape(rows * (height + 2), columns * (width + 2), channels))


def png(pixels: UInt8[np.ndarray, "height width channels"]) -> str:
    """Pixels of 1, 3 or 4 channels as a data URI."""
    import PIL.Image

    file = io.BytesIO()
    picture = PIL.Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
