"""A part of a data set's training images."""

from dataclasses import replace

import numpy as np

from ._images import ImageData


def sample(data: ImageData, samples: int, seed: int) -> ImageData:
    """The data set with a random, class-balanced part of its training images, in their old order.

    Classes have equally many; where `samples` is not a multiple of their number, the first ones
    have one more. The same arguments give the same images.

    Raises:
        ValueError: if a class would have no image, or has fewer than it should give.
    """
    if samples < data.classes:
        raise ValueError(
            f"samples={samples} is fewer than the {data.classes} classes of {data.name!r}: give "
            "at least one image for each."
        )
    rng = np.random.default_rng([seed, 3])
    counts = samples // data.classes + (np.arange(data.classes) < samples % data.classes)
    rows = []
    for label, count in enumerate(counts):
        own = np.flatnonzero(data.train_labels == label)
        if len(own) < count:
            fewest = int(np.bincount(data.train_labels, minlength=data.classes).min())
            raise ValueError(
                f"samples={samples} takes {count} training images of each class, and class "
                f"{data.class_names[label]!r} of {data.name!r} has {len(own)}: give at most "
                f"{fewest * data.classes}, or leave samples out for all images."
            )
        rows.append(rng.permutation(own)[:count])
    chosen = np.sort(np.concatenate(rows))
    return replace(
        data, train_images=data.train_images[chosen], train_labels=data.train_labels[chosen]
    )
