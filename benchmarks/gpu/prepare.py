"""The data sets, read and whitened once, on the processors, for all stages."""

import pickle
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from bilevel_distillation.data import ImageData, Preprocessor, load

from ._task import OutOfTime, Sizes, Task

NAMES = ("cifar10", "mnist")
AUTHORS = "rcig_authors_cifar10_1ipc.npz"


def prepare(task: Task) -> None:
    """Read, whiten and write; what fails is told to the stages that want it."""
    for name in NAMES:
        found: object
        try:
            data = smaller(load(name), task.sizes)
            found = data, Preprocessor.fit(data.train_images, zca=data.image_shape[2] == 3)
        except Exception as error:
            found = RuntimeError(f"{name} could not be prepared: {type(error).__name__}: {error}")
        unfinished = task.scratch / f"{name}.part"
        unfinished.write_bytes(pickle.dumps(found, protocol=pickle.HIGHEST_PROTOCOL))
        unfinished.replace(task.scratch / f"{name}.pickle")


def smaller(data: ImageData, sizes: Sizes) -> ImageData:
    """The first images, of both splits, and the middle of each."""

    def part(array: np.ndarray) -> np.ndarray:
        return middle(array[: sizes.images], sizes)

    return replace(
        data,
        train_images=part(data.train_images),
        train_labels=data.train_labels[: sizes.images],
        test_images=part(data.test_images),
        test_labels=data.test_labels[: sizes.images],
    )


def middle(images: np.ndarray, sizes: Sizes) -> np.ndarray:
    """So many pixels of each image; all, if it is not said how many."""
    if sizes.pixels is None:
        return images
    start = (images.shape[1] - sizes.pixels) // 2
    inside = slice(start, start + sizes.pixels)
    return np.ascontiguousarray(images[:, inside, inside])


def prepared(task: Task, name: str) -> tuple[ImageData, Preprocessor]:
    """A data set and what whitens it, as soon as they are there."""
    path: Path = task.scratch / f"{name}.pickle"
    while not path.exists():
        if task.left < 1:
            raise OutOfTime(f"{name} was ready")
        time.sleep(0.1)
    found = pickle.loads(path.read_bytes())
    if isinstance(found, Exception):
        raise found
    return found
