"""The data sets that are known by a short name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """Where a named data set lives on the hub, and which of its columns and splits to use.

    Attributes:
        hub: the hub name, `owner/name`.
        image_column: the column with the images.
        label_column: the column with the classes.
        train_split: the split to distil.
        test_split: the split to evaluate on.
        config: which of the hub data set's configurations, where there are several.
        resolution: resize to this many pixels, where the hub's images are larger or uneven.
    """

    hub: str
    image_column: str = "image"
    label_column: str = "label"
    train_split: str = "train"
    test_split: str = "test"
    config: str | None = None
    resolution: int | None = None


PRESETS: dict[str, Preset] = {
    "mnist": Preset("ylecun/mnist"),
    "fashion_mnist": Preset("zalando-datasets/fashion_mnist"),
    "cifar10": Preset("uoft-cs/cifar10", image_column="img"),
}
"""The named data sets besides `digits`, which comes with scikit-learn."""
