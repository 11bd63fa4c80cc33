"""Snapshots: what the distilled images and labels looked like over a run."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int, UInt8

from ._arrays import read_arrays, write_arrays
from ._distilled import DistilledSet
from ._reading import guarded

MOST_IMAGES = 100
_NAME = re.compile(r"[0-9]{1,18}\.npz")
_EARLY = (0.01, 0.02, 0.05, 0.1)  # parts of the run: images change most at its start


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Some images of a distilled set after an iteration; always the same ones in a run.

    Attributes:
        iteration: meta-iterations done.
        rows: which images of the set these are, int [n].
        images: to look at, uint8 [n, height, width, channels].
        labels: float32 [n, n_classes].
        classes: the class that each image began as, int [n].
        class_names: the name of each class of the set.
        size: how many images the whole set has.
    """

    iteration: int
    rows: Int[np.ndarray, " n"]
    images: UInt8[np.ndarray, "n height width channels"]
    labels: Float32[np.ndarray, "n classes"]
    classes: Int[np.ndarray, " n"]
    class_names: tuple[str, ...]
    size: int

    @classmethod
    def of(cls, distilled: DistilledSet, iteration: int) -> "Snapshot":
        """At most 100 images of a set, equally many of each class."""
        rows = choose(distilled.classes, MOST_IMAGES)
        return cls(
            iteration=iteration,
            rows=rows,
            images=distilled.preprocessor.inverse(distilled.images[rows]),
            labels=distilled.labels[rows],
            classes=distilled.classes[rows],
            class_names=distilled.class_names,
            size=len(distilled.images),
        )

    def take(self, places: Int[np.ndarray, " m"]) -> "Snapshot":
        """Some of its images."""
        return Snapshot(
            self.iteration,
            self.rows[places],
            self.images[places],
            self.labels[places],
            self.classes[places],
            self.class_names,
            self.size,
        )


def choose(classes: Int[np.ndarray, " n"], most: int) -> Int[np.ndarray, " m"]:
    """At most `most` rows, the first of each class; of evenly spaced classes if there are more."""
    present = np.unique(classes)
    if len(present) > most:
        present = present[np.linspace(0, len(present) - 1, most).round().astype(int)]
    each = most // len(present)
    return np.concatenate([np.flatnonzero(classes == label)[:each] for label in present])


def moments(total: int, curve_points: int) -> frozenset[int]:
    """After which iterations a snapshot is taken: with the learning curve, and at the start."""
    curve = range(0, total, max(1, total // curve_points))
    return frozenset(curve) | {round(part * total) for part in _EARLY} | {total}


class History:
    """The snapshots of a run, one small npz file each, named after its iteration."""

    def __init__(self, folder: Path):
        self.folder = folder

    def keep(self, snapshot: Snapshot) -> None:
        """Write a snapshot, in one step; an earlier one of the same iteration is replaced."""
        self.folder.mkdir(exist_ok=True)
        arrays = {
            "rows": snapshot.rows,
            "images": snapshot.images,
            "labels": snapshot.labels,
            "classes": snapshot.classes,
            "class_names": np.array(snapshot.class_names, np.str_),
            "size": np.array(snapshot.size, np.int64),
        }
        write_arrays(self.folder / f"{snapshot.iteration:06d}.npz", arrays, compress=True)

    def cut(self, iteration: int) -> None:
        """Drop what was kept after `iteration`; with -1, everything."""
        for kept, path in self._files():
            if kept > iteration:
                path.unlink()

    def read(self) -> list[Snapshot]:
        """All snapshots, in order; an older run may have none.

        Raises:
            ValueError: one is damaged.
        """
        return [_read(path, iteration) for iteration, path in self._files()]

    def _files(self) -> Sequence[tuple[int, Path]]:
        if not self.folder.is_dir():
            return []
        paths = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]
        return sorted((int(path.stem), path) for path in paths)


def _read(path: Path, iteration: int) -> Snapshot:
    remedy = "delete it, and the page is drawn without it"
    arrays = read_arrays(path, remedy=remedy)
    with guarded(path, remedy):
        _check(arrays)
        return Snapshot(
            iteration=iteration,
            rows=arrays["rows"],
            images=arrays["images"],
            labels=arrays["labels"],
            classes=arrays["classes"],
            class_names=tuple(map(str, arrays["class_names"])),
            size=int(arrays["size"]),
        )


def _check(arrays: Mapping[str, np.ndarray]) -> None:
    kinds = {"rows": ("iu", 1), "images": ("u", 4), "labels": ("f", 2), "classes": ("iu", 1),
             "class_names": ("U", 1), "size": ("iu", 0)}  # fmt: skip
    for name, (kind, axes) in kinds.items():
        if arrays[name].dtype.kind not in kind or arrays[name].ndim != axes:
            raise ValueError(f"its array {name!r} is of another kind or has other axes")
    n, names = len(arrays["images"]), len(arrays["class_names"])
    if not n or arrays["labels"].shape != (n, names) or not np.isfinite(arrays["labels"]).all():
        raise ValueError("its labels do not fit its images and class names")
    if arrays["images"].dtype.itemsize > 1 or arrays["images"].shape[3] not in (1, 3):
        raise ValueError("its images are no pixels")
    if not len(arrays["rows"]) == len(arrays["classes"]) == n:
        raise ValueError("its arrays differ in length")
    if arrays["classes"].min() < 0 or arrays["classes"].max() >= names:
        raise ValueError("its classes are out of range")
