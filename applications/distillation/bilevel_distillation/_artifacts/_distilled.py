"""A distilled data set: what a run makes, and all it takes to train on it."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ..data import Preprocessor
from ._arrays import names_in, read_arrays, write_arrays
from ._reading import guarded, parse_json
from ._usable import Usable

_FLIP_UP_TO = 1000
_PREFIX = "preprocess_"
_BESIDE = "whitening_beside"
_NAMES = frozenset(
    {"images", "x_proto", "labels", "y_proto", "classes", "class_names", "log_temperature"}
) | {"log_temp", "flip", "provenance"}


class NoPreprocessor(ValueError):
    """A file of images that does not say how they were preprocessed."""


@dataclass(frozen=True, eq=False, repr=False)
class DistilledSet(Usable):
    """A few synthetic images with soft labels, and how to train on them.

    A network is trained on it by squared error between its outputs and `labels`, and predicts
    the class with the largest output; images to predict are put through `preprocessor` first.

    Attributes:
        images: float32 [n, height, width, channels] as trained on, which is the space that
            `preprocessor` brings images into.
        labels: float32 [n, n_classes], soft and centred: near one-hot minus `1 / n_classes`.
        classes: int32 [n], the class that each image began as.
        class_names: the name of each class.
        preprocessor: brings `uint8` images into the space of `images`, and back.
        log_temperature: the logarithm of the temperature learned in distilling.
        flip: whether training adds the mirror image of each image.
        provenance: how the set was made (data set, method, images per class, iterations,
            version, ...), as values that JSON knows.

    Raises:
        ValueError: if arrays hold NaN or infinity, shapes do not fit each other, a class is out
            of range, or `provenance` is not for JSON.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: np.ndarray
    class_names: tuple[str, ...]
    preprocessor: Preprocessor
    log_temperature: float = 0.0
    flip: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, dtype in (("images", np.float32), ("labels", np.float32), ("classes", np.int32)):
            object.__setattr__(self, name, _as(name, getattr(self, name), dtype))
        object.__setattr__(self, "class_names", tuple(str(name) for name in self.class_names))
        object.__setattr__(self, "log_temperature", float(self.log_temperature))
        object.__setattr__(self, "flip", bool(self.flip))
        self._check_shapes()
        for name in ("images", "labels", "log_temperature"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} holds NaN or infinity; give finite numbers.")
        wrong = self.classes[(self.classes < 0) | (self.classes >= len(self.class_names))]
        if len(wrong):
            raise ValueError(
                f"classes holds {wrong[0]}, out of range for {len(self.class_names)} class names; "
                f"use 0 to {len(self.class_names) - 1}."
            )
        try:
            json.dumps(self.provenance, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"provenance cannot be written as JSON ({error}); give plain numbers, strings, "
                "lists and dictionaries."
            ) from error

    def _check_shapes(self) -> None:
        n = len(self.images)
        if (
            self.images.ndim != 4
            or n == 0
            or self.images.shape[1:] != self.preprocessor.image_shape
        ):
            raise ValueError(
                f"images has shape {self.images.shape}; the preprocessor needs "
                f"[n, {', '.join(map(str, self.preprocessor.image_shape))}] with n at least 1."
            )
        if self.labels.shape != (n, len(self.class_names)):
            raise ValueError(
                f"labels has shape {self.labels.shape}; {n} images and {len(self.class_names)} "
                f"class names need {(n, len(self.class_names))}."
            )
        if self.classes.shape != (n,):
            raise ValueError(
                f"classes has shape {self.classes.shape}; give one class for each of {n} images."
            )

    @cached_property
    def display_images(self) -> UInt8[np.ndarray, "n height width channels"]:
        """The images as pixels that can be looked at."""
        return self.preprocessor.inverse(self.images)

    def save_npz(self, path: str | os.PathLike[str], *, beside: str | None = None) -> None:
        """Write everything to one npz file; a file that is there is replaced in one step.

        Args:
            path: the file.
            beside: the name of a file in the same folder that holds what whitens images, which is
                then not written again, and read from there.
        """
        arrays: dict[str, Any] = {
            "images": self.images,
            "labels": self.labels,
            "classes": self.classes,
            "class_names": np.array(self.class_names, np.str_),
            "log_temperature": np.float64(self.log_temperature),
            "flip": np.bool_(self.flip),
            "provenance": np.str_(json.dumps(self.provenance)),
        }
        stored = self.preprocessor.to_arrays()
        if beside is not None and "whitening" in stored:
            stored[_BESIDE] = np.array(json.dumps([beside, _sum(stored.pop("whitening"))]))
        arrays |= {_PREFIX + name: array for name, array in stored.items()}
        write_arrays(Path(path), arrays)

    @classmethod
    def load_npz(
        cls,
        path: str | os.PathLike[str],
        *,
        preprocessor: Preprocessor | None = None,
        class_names: Sequence[str] | None = None,
        flip: bool | None = None,
    ) -> "DistilledSet":
        """Read a distilled set from an npz file, made here or elsewhere.

        A file made elsewhere needs images and soft labels under the names `images` and `labels`,
        or `x_proto` and `y_proto`; `log_temp` is read if it is there. What such a file does not
        say comes from the arguments.

        Args:
            path: the file.
            preprocessor: brings images into the space of the stored ones. Needed if the file
                holds none; given all the same, it takes the place of the one in the file.
            class_names: the name of each class; in place of those in the file, or of `0`, `1`, ...
            flip: whether training adds mirror images; in place of what the file says, or of the
                paper's rule: for colour images, up to 1000 of them.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, lacks images or labels, or has no preprocessor and none
                was given.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no file {str(path)!r}; give the path of an npz file."
            )
        remedy = "export or copy it again"
        arrays = read_arrays(path, _is_wanted, remedy, "is damaged or no npz file")
        images = _either(arrays, ("images", "x_proto"), 4, path)
        labels = _either(arrays, ("labels", "y_proto"), 2, path)
        if preprocessor is None:
            stored = {k.removeprefix(_PREFIX): v for k, v in arrays.items() if k not in _NAMES}
            if not stored:
                raise NoPreprocessor(
                    f"{str(path)!r} does not say how its images were preprocessed; give "
                    "preprocessor=, fitted to the training images that it was made from."
                )
            if _BESIDE in stored:
                stored["whitening"] = _whitening(path, stored.pop(_BESIDE), remedy)
            with guarded(path, remedy):
                preprocessor = Preprocessor.from_arrays(stored)
        if class_names is None:
            class_names = _class_names(arrays, labels.shape[1], path)
        if flip is None:
            rule = images.shape[-1] == 3 and len(images) <= _FLIP_UP_TO
            flip = bool(_single(arrays, ("flip",), "biu", rule, path))
        temperature = _single(arrays, ("log_temperature", "log_temp"), "fiu", 0.0, path)
        provenance = _provenance(arrays, path)
        try:
            return cls(
                images=images,
                labels=labels,
                classes=arrays["classes"] if "classes" in arrays else labels.argmax(-1),
                class_names=tuple(class_names),
                preprocessor=preprocessor,
                log_temperature=float(temperature),
                flip=flip,
                provenance=provenance,
            )
        except ValueError as error:
            raise ValueError(f"{str(path)!r} holds no distilled set: {error}") from error


def _sum(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def _whitening(path: Path, told: np.ndarray, remedy: str) -> np.ndarray:
    """The whitening matrix that another file in the folder holds."""
    with guarded(path, remedy):
        name, expected = json.loads(str(told))
        other = path.with_name(name)  # a name alone: it leads nowhere else
    if not other.is_file():
        raise FileNotFoundError(
            f"{str(other)!r} is missing, which {path.name} needs: copy it there as well, or export "
            "the run with to='npz'."
        )
    found = read_arrays(other, lambda one: one == "whitening", remedy).get("whitening")
    if found is None or _sum(found) != expected:
        raise ValueError(
            f"{str(other)!r} is not the file that {path.name} was made with: restore it, or export "
            "the run with to='npz'."
        )
    return found


def _is_wanted(name: str) -> bool:
    return name in _NAMES or name.startswith(_PREFIX)


def _as(name: str, array: Any, dtype: Any) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype == dtype:
        return array
    whole = np.issubdtype(dtype, np.integer)
    if array.dtype.kind not in ("iu" if whole else "fiu"):
        raise ValueError(f"{name} has dtype {array.dtype}; give {np.dtype(dtype)}.")
    with np.errstate(over="ignore"):  # infinity is refused by its name
        return array.astype(dtype)


def _either(
    arrays: Mapping[str, np.ndarray], keys: tuple[str, str], axes: int, path: Path
) -> np.ndarray:
    key = next((key for key in keys if key in arrays), None)
    if key is None:
        raise ValueError(
            f"{str(path)!r} has no array {keys[0]!r} or {keys[1]!r}, only "
            f"{', '.join(map(repr, names_in(path)))}; rename the array or choose another file."
        )
    if arrays[key].ndim != axes or arrays[key].dtype.kind not in "fiu" or not arrays[key].size:
        wanted = "[n, height, width, channels]" if axes == 4 else "[n, classes]"
        raise ValueError(
            f"{str(path)!r} has {key} of shape {arrays[key].shape} and type {arrays[key].dtype}: "
            f"give real numbers {wanted}."
        )
    return arrays[key]


def _class_names(arrays: Mapping[str, np.ndarray], count: int, path: Path) -> tuple[str, ...]:
    names = arrays.get("class_names", np.arange(count))
    if names.shape != (count,) or names.dtype.kind not in "USiu":
        raise ValueError(
            f"{str(path)!r} has class_names of shape {names.shape} and type {names.dtype}: give a "
            f"name for each of the {count} classes, or leave them out."
        )
    if names.dtype.kind == "S":
        return tuple(name.decode("utf-8", "replace") for name in names.tolist())
    return tuple(map(str, names.tolist()))


def _single(
    arrays: Mapping[str, np.ndarray], keys: tuple[str, ...], kinds: str, default: Any, path: Path
) -> Any:
    """One number or boolean; an array of one element is taken as well."""
    key = next((key for key in keys if key in arrays), None)
    if key is None:
        return default
    if arrays[key].size != 1 or arrays[key].dtype.kind not in kinds:
        raise ValueError(
            f"{str(path)!r} has {key} of shape {arrays[key].shape} and type {arrays[key].dtype}: "
            "give a single one, or leave it out."
        )
    return arrays[key].item()


def _provenance(arrays: Mapping[str, np.ndarray], path: Path) -> dict[str, Any]:
    if "provenance" not in arrays:
        return {"source": path.name}
    with guarded(path, "export it again, or leave its provenance out"):
        found = parse_json(str(arrays["provenance"]).encode())
        if not isinstance(found, dict):
            raise ValueError("its provenance is no dictionary")
        return found
