"""A distilled data set: what a run makes, and all it takes to train on it."""

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from .data import Preprocessor

_FLIP_UP_TO = 1000


class NoPreprocessor(ValueError):
    """A file of images that does not say how they were preprocessed."""


@dataclass(frozen=True, eq=False)
class DistilledSet:
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

    def save_npz(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one npz file; a file that is there is replaced in one step."""
        path = Path(path)
        arrays: dict[str, Any] = {
            "images": self.images,
            "labels": self.labels,
            "classes": self.classes,
            "class_names": np.array(self.class_names, np.str_),
            "log_temperature": np.float64(self.log_temperature),
            "flip": np.bool_(self.flip),
            "provenance": np.str_(json.dumps(self.provenance)),
        }
        arrays |= {f"preprocess_{k}": v for k, v in self.preprocessor.to_arrays().items()}
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with open(unfinished, "wb") as file:
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

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
        arrays = _read_npz(Path(path))
        images = _either(arrays, ("images", "x_proto"), path)
        labels = _either(arrays, ("labels", "y_proto"), path)
        if preprocessor is None:
            prefix = "preprocess_"
            stored = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
            if not stored:
                raise NoPreprocessor(
                    f"{str(path)!r} does not say how its images were preprocessed; give "
                    "preprocessor=, fitted to the training images that it was made from."
                )
            preprocessor = Preprocessor.from_arrays(stored)
        if class_names is None:
            known: Any = arrays.get("class_names", range(labels.shape[-1]))
            class_names = tuple(str(name) for name in known)
        if flip is None:
            rule = images.shape[-1] == 3 and len(images) <= _FLIP_UP_TO
            flip = bool(arrays.get("flip", rule))
        return cls(
            images=images,
            labels=labels,
            classes=arrays["classes"] if "classes" in arrays else labels.argmax(-1),
            class_names=tuple(class_names),
            preprocessor=preprocessor,
            log_temperature=float(arrays.get("log_temperature", arrays.get("log_temp", 0.0))),
            flip=flip,
            provenance=_provenance(arrays, path),
        )


def _as(name: str, array: Any, dtype: Any) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype == dtype:
        return array
    whole = np.issubdtype(dtype, np.integer)
    if array.dtype.kind not in ("iu" if whole else "fiu"):
        raise ValueError(f"{name} has dtype {array.dtype}; give {np.dtype(dtype)}.")
    return array.astype(dtype)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}; give the path of an npz file.")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{str(path)!r} is damaged or no npz file ({error}); export or copy it again."
        ) from error


def _either(
    arrays: Mapping[str, np.ndarray], keys: tuple[str, str], path: str | os.PathLike[str]
) -> np.ndarray:
    for key in keys:
        if key in arrays:
            return arrays[key]
    raise ValueError(
        f"{str(path)!r} has no array {keys[0]!r} or {keys[1]!r}, only "
        f"{', '.join(map(repr, arrays))}; rename the array or choose another file."
    )


def _provenance(arrays: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> dict[str, Any]:
    if "provenance" in arrays:
        return json.loads(str(arrays["provenance"]))
    return {"source": Path(path).name}
