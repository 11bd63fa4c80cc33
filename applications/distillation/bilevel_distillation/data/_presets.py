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
    "cifar100": Preset("uoft-cs/cifar100", image_column="img", label_column="fine_label"),
    "tiny_imagenet": Preset("zh-plus/tiny-imagenet", test_split="valid", resolution=64),
    "cub200": Preset("bentrevett/caltech-ucsd-birds-200-2011", resolution=32),
    "imagenette": Preset(
        "frgfm/imagenette", config="160px", test_split="validation", resolution=128
    ),
    "imagewoof": Preset("frgfm/imagewoof", config="160px", test_split="validation", resolution=128),
    "imagenet64": Preset(
        "benjamin-paine/imagenet-1k-64x64", test_split="validation", resolution=64
    ),
}
"""The named data sets besides `digits`, which comes with scikit-learn; at the resolutions of the
RCIG paper.
"""
