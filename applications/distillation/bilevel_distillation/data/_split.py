"""A stratified split that never changes."""

import numpy as np
from jaxtyping import Int, Int32


def hold_out(
    labels: Int32[np.ndarray, " n"], every: int
) -> tuple[Int[np.ndarray, " n_train"], Int[np.ndarray, " n_test"]]:
    """Hold out image number `every`, `2 every`, `3 every`, ... of each class.

    No random numbers: the split depends on the order of the images alone, in every version.

    Args:
        labels: the class of each image.
        every: one image in `every` is held out.

    Returns:
        The rows to train on and the rows held out, both ascending.
    """
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        held[np.flatnonzero(labels == label)[every - 1 :: every]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)
