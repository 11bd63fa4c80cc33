"""The embedded data set: handwritten digits that come with scikit-learn."""

from typing import Any

import numpy as np

from ._images import ImageData
from ._split import hold_out


def load_digits() -> ImageData:
    """Scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, with a fixed test split.

    The values 0 to 16 become pixels 0 to 255, rounded. Every third image of each class, in the
    order of the file, is a test image (numbers 3, 6, 9, ...): 1,201 images to train on, 596 to
    test on. No random numbers are involved, so that the split is the same everywhere.
    """
    from sklearn.datasets import load_digits as load_bunch

    bunch: Any = load_bunch()
    images = np.rint(bunch.data * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = bunch.target.astype(np.int32)
    train, test = hold_out(labels, every=3)
    return ImageData(
        name="digits",
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        class_names=tuple(str(digit) for digit in range(10)),
    )
