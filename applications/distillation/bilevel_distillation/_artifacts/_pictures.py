"""Pictures of a run: the distilled images as a grid, and the learning curve."""

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from ._distilled import DistilledSet
from ._text import one_line
from ._writing import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:  # heavy imports wait until they are used
    Axes = Figure = Any

_DPI = 100
_INK, _FAINT = "#1f2933", "#7b8794"
_BLUE, _RED = "#2563a8", "#c2410c"
_LETTER = 0.62 * _DPI / 72  # the width of a letter in pixels, for a type size of one point
_MOST_ROWS, _MOST_COLUMNS, _MOST_CELLS = 20, 10, 200


@dataclass(frozen=True)
class _Layout:
    """Where everything goes, in pixels; `places` are (row, column, image) of the cells."""

    rows: int
    columns: int
    places: list[tuple[int, int, int]]
    row_titles: list[str]
    cell_titles: list[str]
    note: str


def draw_images(
    pictures: DistilledSet | tuple[np.ndarray, Sequence[str]],
    path: str | os.PathLike[str],
) -> Path:
    """Draw images as a grid with their classes, pixels enlarged by a whole number.

    A distilled set with one image per class is drawn with the class under each image; with more,
    there is a row for each class. At most 200 images are drawn in a plain grid and 20 classes of
    10 images in rows; the picture says what it leaves out.

    Args:
        pictures: a distilled set, or images, uint8 [n, height, width, channels], and a title
            for each.
        path: the PNG file to write.

    Returns:
        The path.

    Raises:
        ValueError: if images are not `uint8` with 1 or 3 channels, or titles do not match them.
    """
    if isinstance(pictures, DistilledSet):
        images = pictures.display_images
        names = [one_line(name) for name in pictures.class_names]
        layout = _layout_of_classes(pictures.classes, names)
    else:
        images, titles = pictures
        _check(images, titles)
        layout = _plain_layout(len(images), [one_line(title) for title in titles])
    with plain_text():
        return _draw_grid(images, layout, Path(path))


def draw_learning_curve(records: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> Path:
    """Draw the outer loss and the accuracies of a run against its iterations.

    Args:
        records: the metrics of a run, in order. Each has `iteration`, `loss` and `accuracy` (of
            the outer batch, 0 to 1); those after an evaluation also have `test_accuracy` and
            perhaps `test_accuracy_std`. Missing values are left out.
        path: the PNG file to write.

    Returns:
        The path.

    Raises:
        ValueError: if there are no records.
    """
    if not records:
        raise ValueError("records is empty; give the metrics of at least one iteration.")
    with plain_text():
        return _draw_curve(records, Path(path))


@contextmanager
def plain_text() -> Iterator[None]:
    """Nothing is handed to LaTeX, whatever a user's own settings of matplotlib ask for, and letters
    that no font has are drawn as boxes.
    """
    import matplotlib

    with matplotlib.rc_context({"text.usetex": False}):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph|Matplotlib currently does not support")
            yield


def _draw_curve(records: Sequence[Mapping[str, Any]], path: Path) -> Path:
    figure = _figure(900, 640)
    top, bottom = figure.subplots(2, 1, sharex=True)
    figure.subplots_adjust(left=0.085, right=0.975, top=0.945, bottom=0.085, hspace=0.1)

    steps, loss = series(records, "loss")
    top.plot(steps, loss, color=_BLUE, alpha=0.25, linewidth=0.8)
    top.plot(steps, _smooth(loss), color=_BLUE, linewidth=1.8)
    if len(loss) and loss.min() > 0 and loss.max() > 10 * loss.min():
        top.set_yscale("log")
    top.set_ylabel("outer loss")
    top.set_title(_heading(records), loc="left", fontsize=11, color=_INK)

    steps, batch = series(records, "accuracy")
    bottom.plot(steps, 100 * batch, color=_BLUE, alpha=0.2, linewidth=0.8)
    bottom.plot(
        steps, 100 * _smooth(batch), color=_BLUE, linewidth=1.4, label="outer batch (training data)"
    )
    steps, test = series(records, "test_accuracy")
    if len(steps):
        deviation = np.array(
            [r.get("test_accuracy_std") or 0.0 for r in records if has(r, "test_accuracy")]
        )
        bottom.errorbar(
            steps,
            100 * test,
            yerr=100 * deviation if deviation.any() else None,
            color=_RED,
            marker="o",
            markersize=4.5,
            capsize=3,
            linewidth=1.4,
            label="test, networks trained from scratch",
        )
    bottom.set_ylabel("accuracy (%)")
    bottom.set_xlabel("iteration")
    if bottom.get_legend_handles_labels()[0]:
        bottom.legend(frameon=False, loc="lower right", fontsize=9, labelcolor=_INK)
    for axes in (top, bottom):
        _plain(axes)
    return _save(figure, path)


def _layout_of_classes(classes: np.ndarray, class_names: Sequence[str]) -> _Layout:
    present = np.unique(classes)
    if len(present) == len(classes):
        order = np.argsort(classes)
        layout = _plain_layout(len(classes), [class_names[int(classes[i])] for i in order])
        places = [(row, column, int(order[i])) for row, column, i in layout.places]
        return _Layout(layout.rows, layout.columns, places, [], layout.cell_titles, layout.note)
    shown = present[:_MOST_ROWS]
    rows = [np.flatnonzero(classes == label)[:_MOST_COLUMNS] for label in shown]
    most = int(np.bincount(classes).max())
    left_out = []
    if len(shown) < len(present):
        left_out.append(f"{len(shown)} of {len(present)} classes")
    if most > _MOST_COLUMNS:
        left_out.append(f"{_MOST_COLUMNS} of {most} images per class")
    return _Layout(
        rows=len(rows),
        columns=max(len(row) for row in rows),
        places=[(r, c, int(i)) for r, row in enumerate(rows) for c, i in enumerate(row)],
        row_titles=[class_names[int(label)] for label in shown],
        cell_titles=[],
        note=", ".join(left_out),
    )


def _plain_layout(n: int, titles: list[str]) -> _Layout:
    shown = min(n, _MOST_CELLS)
    columns = _columns(shown)
    return _Layout(
        rows=math.ceil(shown / columns),
        columns=columns,
        places=[(i // columns, i % columns, i) for i in range(shown)],
        row_titles=[],
        cell_titles=titles[:shown],
        note=f"{shown} of {n} images" if shown < n else "",
    )


def _columns(n: int) -> int:
    """About square to twice as wide as high, with as few empty places as possible."""
    candidates = range(math.ceil(math.sqrt(n)), max(math.ceil(math.sqrt(n)), int(2.2 * n**0.5)) + 1)
    return min(candidates, key=lambda columns: (-n % columns, columns))


def _draw_grid(images: np.ndarray, layout: _Layout, path: Path) -> Path:
    height, width = images.shape[1:3]
    goal = 112 if layout.columns <= 5 else 80 if layout.columns <= 10 else 64
    scale = max(1, round(goal / max(height, width)))
    height, width = height * scale, width * scale
    gap, margin = 8, 14
    caption = 20 if layout.cell_titles else 0
    widest = max((len(title) for title in layout.row_titles), default=0)
    left = margin + (min(widest, 18) * 7 + 8 if widest else 0)
    foot = 22 if layout.note else 0
    step_x, step_y = width + gap, height + gap + caption
    total_x = left + layout.columns * step_x - gap + margin
    total_y = margin + layout.rows * step_y - (gap if not caption else 0) + margin // 2 + foot

    figure = _figure(total_x, total_y)
    longest = max([1, *map(len, layout.cell_titles)])
    size = min(9.0, max(6.0, width / (_LETTER * longest)))  # in points

    def write(x: float | int, y: float | int, text: str, **how: Any) -> None:
        # A dollar sign in a name begins no formula.
        figure.text(x / total_x, 1 - y / total_y, text, color=_INK, parse_math=False, **how)

    for row, column, image in layout.places:
        x, y = left + column * step_x, margin + row * step_y
        # figimage puts array pixels on picture pixels, so nothing is resampled.
        pixels = np.repeat(np.repeat(_rgb(images[image]), scale, 0), scale, 1)
        figure.figimage(pixels, x, total_y - y - height, origin="upper")
    for (row, column, _), title in zip(layout.places, layout.cell_titles, strict=False):
        x, y = left + (column + 0.5) * step_x - gap / 2, margin + row * step_y + height + 15
        fitting = max(4, int(width / (_LETTER * size)))
        write(x, y, _short(title, fitting), ha="center", va="baseline", fontsize=size)
    for row, title in enumerate(layout.row_titles):
        y = margin + row * step_y + height / 2
        write(left - 8, y, _short(title, 18), ha="right", va="center", fontsize=9)
    if layout.note:
        write(
            total_x / 2, total_y - foot / 2 - 4, layout.note, ha="center", va="center", fontsize=8
        )
    return _save(figure, path)


def _figure(width: int, height: int) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> Path:
    with whole_file(path) as file:
        # Without the version of matplotlib in it, equal pictures are equal files.
        figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return path


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_FAINT, labelcolor=_INK, labelsize=9, which="both")
    axes.yaxis.label.set_color(_INK)
    axes.xaxis.label.set_color(_INK)
    axes.margins(x=0.02)


def _heading(records: Sequence[Mapping[str, Any]]) -> str:
    last = records[-1]
    parts = [f"{last.get('iteration', len(records)):,} iterations"]
    if has(last, "seconds"):
        seconds = float(last["seconds"])
        parts.append(f"{seconds / 60:.1f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds")
    tested = [r for r in records if has(r, "test_accuracy")]
    if tested:
        deviation = tested[-1].get("test_accuracy_std")
        spread = f" ± {100 * deviation:.1f}" if deviation else ""
        parts.append(f"test accuracy {100 * tested[-1]['test_accuracy']:.1f}{spread} %")
    return "  ·  ".join(parts)


def has(record: Mapping[str, Any], key: str) -> bool:
    value = record.get(key)
    return value is not None and math.isfinite(value)


def series(
    records: Sequence[Mapping[str, Any]], key: str
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    pairs = [(r["iteration"], r[key]) for r in records if has(r, key)]
    both = np.array(pairs, np.float64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _smooth(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Mean over the neighbours, about a twentieth of the curve on either side."""
    reach = len(values) // 40
    sums = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    low, high = np.maximum(place - reach, 0), np.minimum(place + reach + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _rgb(image: np.ndarray) -> np.ndarray:
    return np.broadcast_to(image, (*image.shape[:2], 3))


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _check(images: Any, titles: Sequence[str]) -> None:
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        raise ValueError(
            f"images are {getattr(images, 'dtype', type(images).__name__)}; give uint8 pixels, "
            "for example those of Preprocessor.inverse."
        )
    if images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
        raise ValueError(
            f"images have shape {images.shape}; give [n, height, width, channels] with 1 or 3 "
            "channels."
        )
    if len(titles) != len(images):
        raise ValueError(f"{len(titles)} titles for {len(images)} images; give one for each.")
