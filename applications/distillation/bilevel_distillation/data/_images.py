"""A labelled image data set in memory."""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32


@dataclass(frozen=True, eq=False)
class ImageData:
    """A labelled image data set with a training and a test split, held in memory.

    Attributes:
        name: what the data set is called in records and pictures.
        train_images: uint8 [n, height, width, channels], pixels from 0 to 255, one channel (gray)
            or three (red, green, blue).
        train_labels: int32 [n], the class of each training image, from 0 to `classes - 1`. Other
            integer types are converted.
        test_images: as `train_images`, of the same image shape.
        test_labels: as `train_labels`.
        class_names: the name of each class, in the order of the labels.

    Raises:
        ValueError: if images are not `uint8` (float images are told whether they hold NaN), a
            shape does not fit, a split is empty, or a label is out of range.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", tuple(self.class_names))
        if not self.class_names:
            raise ValueError("class_names is empty; give one name for each class.")
        for split in ("train", "test"):
            _check_images(f"{split}_images", getattr(self, f"{split}_images"))
            labels = _checked_labels(
                f"{split}_labels",
                getattr(self, f"{split}_labels"),
                len(getattr(self, f"{split}_images")),
                len(self.class_names),
            )
            object.__setattr__(self, f"{split}_labels", labels)
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise ValueError(
                f"test_images are {_by(self.test_images.shape[1:])} but train_images are "
                f"{_by(self.train_images.shape[1:])}; give both splits the same image shape."
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        height, width, channels = self.train_images.shape[1:]
        return height, width, channels

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def fingerprint(self) -> dict[str, str]:
        """Checksums that tell whether training data, test data and class names are the same."""
        return {
            "training images": _sum(self.train_images, self.train_labels),
            "test images": _sum(self.test_images, self.test_labels),
            "class names": hashlib.sha256(json.dumps(self.class_names).encode()).hexdigest(),
        }


def check_images_per_class(data: ImageData, ipc: int) -> None:
    """Check that every class has at least `ipc` training images.

    Args:
        data: the data set that images are to be drawn from.
        ipc: images per class.

    Raises:
        ValueError: if `ipc` is not positive, or a class has fewer training images.
    """
    if ipc < 1:
        raise ValueError(f"ipc is {ipc}; ask for at least 1 image per class.")
    counts = np.bincount(data.train_labels, minlength=data.classes)
    short = np.flatnonzero(counts < ipc)
    if len(short):
        fewest = int(short[np.argmin(counts[short])])
        others = f" (and {len(short) - 1} more classes are short)" if len(short) > 1 else ""
        remedy = (
            f"ask for an ipc of at most {counts[fewest]}, or add images to the class"
            if counts[fewest]
            else "add images to the class or leave it out of the class names"
        )
        raise ValueError(
            f"ipc is {ipc} but class {data.class_names[fewest]!r} of {data.name!r} has "
            f"{counts[fewest]} training images{others}; {remedy}."
        )


def _check_images(argument: str, images: np.ndarray) -> None:
    if not isinstance(images, np.ndarray):
        raise ValueError(
            f"{argument} is a {type(images).__name__}; give a uint8 NumPy array "
            "[n, height, width, channels]."
        )
    if images.dtype != np.uint8:
        nan = images.dtype.kind == "f" and bool(np.isnan(images).any())
        raise ValueError(
            f"{argument} has dtype {images.dtype}{' and holds NaN' if nan else ''}; "
            "give pixels from 0 to 255 as uint8."
        )
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(
            f"{argument} has shape {images.shape}; give [n, height, width, channels] with "
            "1 or 3 channels."
        )
    if 0 in images.shape:
        raise ValueError(f"{argument} is empty, its shape is {images.shape}; give some images.")


def _checked_labels(
    argument: str, labels: np.ndarray, images: int, classes: int
) -> Int32[np.ndarray, " n"]:
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu":
        raise ValueError(
            f"{argument} has dtype {labels.dtype}; give class numbers from 0 to {classes - 1} "
            "as integers."
        )
    if labels.shape != (images,):
        raise ValueError(
            f"{argument} has shape {labels.shape} for {images} images; give one label an image."
        )
    wrong = np.unique(labels[(labels < 0) | (labels >= classes)])
    if len(wrong):
        raise ValueError(
            f"{argument} holds {', '.join(str(label) for label in wrong[:3])}, out of range for "
            f"{classes} classes; use labels from 0 to {classes - 1} (-1 often marks an unlabelled "
            "split: choose another one)."
        )
    return labels.astype(np.int32)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)


def _sum(images: np.ndarray, labels: np.ndarray) -> str:
    digest = hashlib.sha256(str(images.shape).encode())
    for array in (images, labels):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
