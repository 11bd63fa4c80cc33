"""The real images, as a method sees them that wants more than a batch in each step."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..networks import AbstractNetwork

Rows = Int[np.ndarray, " rows"]
ImagesAndTargets = tuple[Float[Array, "n height width channels"], Float[Array, "n classes"]]


@dataclass(frozen=True)
class Real:
    """All real training images, for what is done once, before the first step.

    Attributes:
        labels: of all of them, shape (samples,).
        classes: their number.
        batch: the preprocessed images, and their one-hot labels, of the rows that it is given.
        make_network: a fresh network from a key, as they distil.
    """

    labels: Int[np.ndarray, " samples"]
    classes: int
    batch: Callable[[Rows], ImagesAndTargets]
    make_network: Callable[[PRNGKeyArray], AbstractNetwork]


def rows_of_classes(
    rng: np.random.Generator, labels: Int[np.ndarray, " samples"], size: int
) -> Rows:
    """About `size` random rows, as many of each class, class by class.

    Raises:
        ValueError: fewer than classes.
    """
    counts = np.bincount(labels)
    if size < len(counts):
        raise ValueError(
            f"batch_size={size} is less than one image of each of {len(counts)} classes, which "
            f"this method compares class by class: give {len(counts)} or more."
        )
    each = min(size // len(counts), counts.min())
    chosen = [rng.choice(np.flatnonzero(labels == c), each, False) for c in range(len(counts))]
    return np.concatenate(chosen)
