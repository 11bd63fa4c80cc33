"""Parts of a data set's training images."""

from dataclasses import replace

import numpy as np
from jaxtyping import Int

from ._images import ImageData


def sample(data: ImageData, samples: int, seed: int) -> ImageData:
    """The data set with a random, class-balanced part of its training images, in their old order.

    Classes have equally many; where `samples` is not a multiple of their number, the first ones
    have one more. The same arguments give the same images.

    Raises:
        ValueError: if a class would have no image, or has fewer than it should give.
    """
    rows = _balanced(data, "samples", samples, np.random.default_rng([seed, 3]))
    return _only(data, rows)


def set_apart(data: ImageData, held_out: int) -> tuple[ImageData, ImageData]:
    """Two parts of the training images, each with the test images: the rest, and a class-balanced
    one of so many, which is the same in every run of the data set.

    Raises:
        ValueError: if a class would have no image in one of the two.
    """
    rows = _balanced(data, "held_out", held_out, np.random.default_rng(7))
    rest = np.setdiff1d(np.arange(len(data.train_labels)), rows)
    if len(np.unique(data.train_labels[rest])) < len(np.unique(data.train_labels)):
        raise ValueError(
            f"held_out={held_out} leaves a class of {data.name!r} without training images: give "
            "fewer."
        )
    return _only(data, rest), _only(data, rows)


def _only(data: ImageData, rows: np.ndarray) -> ImageData:
    return replace(data, train_images=data.train_images[rows], train_labels=data.train_labels[rows])


def _balanced(
    data: ImageData, name: str, total: int, rng: np.random.Generator
) -> Int[np.ndarray, " total"]:
    """Random rows, as many of each class, ascending; `name` is the setting that says how many."""
    if total < data.classes:
        raise ValueError(
            f"{name}={total} is fewer than the {data.classes} classes of {data.name!r}: give "
            "at least one image for each."
        )
    counts = total // data.classes + (np.arange(data.classes) < total % data.classes)
    rows = []
    for label, count in enumerate(counts):
        own = np.flatnonzero(data.train_labels == label)
        if len(own) < count:
            fewest = int(np.bincount(data.train_labels, minlength=data.classes).min())
            raise ValueError(
                f"{name}={total} takes {count} training images of each class, and class "
                f"{data.class_names[label]!r} of {data.name!r} has {len(own)}: give at most "
                f"{fewest * data.classes}, or leave {name} out"
                f"{' for all images' if name == 'samples' else ''}."
            )
        rows.append(rng.permutation(own)[:count])
    return np.sort(np.concatenate(rows))
