"""The data sets that are known by a short name: where they are, and what suits them."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Preset:
    """Where a named data set lives on the hub, which of its columns and splits to use, and with
    what settings it is distilled; what is left out follows from the shape of its images.

    Attributes:
        hub: the hub name, `owner/name`.
        image_column: the column with the images.
        label_column: the column with the classes.
        train_split: the split to distil.
        test_split: the split to evaluate on.
        config: which of the hub data set's configurations, where there are several.
        resolution: resize to this many pixels, where the hub's images are larger or uneven.
        mirrored: whether its images are known to be as likely as their mirror images.
        iterations: meta-iterations by images per class.
        n_subset: through how many distilled images derivatives go, by images per class.
    """

    hub: str
    image_column: str = "image"
    label_column: str = "label"
    train_split: str = "train"
    test_split: str = "test"
    config: str | None = None
    resolution: int | None = None
    mirrored: bool = False
    iterations: Mapping[int, int] = field(default_factory=dict)
    n_subset: Mapping[int, int] = field(default_factory=dict)


_SMALL = {1: 15_000, 10: 10_000, 50: 5_000}
_LARGE = {1: 6_000, 10: 3_000}

PRESETS: dict[str, Preset] = {
    "mnist": Preset("ylecun/mnist", iterations=_SMALL),
    "fashion_mnist": Preset("zalando-datasets/fashion_mnist", iterations=_SMALL),
    "cifar10": Preset("uoft-cs/cifar10", image_column="img", mirrored=True, iterations=_SMALL),
    "cifar100": Preset(
        "uoft-cs/cifar100", image_column="img", label_column="fine_label", mirrored=True,
        iterations={1: 10_000, 10: 5_000, 50: 4_000}, n_subset={50: 2_000},
    ),
    "tiny_imagenet": Preset(
        "zh-plus/tiny-imagenet", test_split="valid", resolution=64, mirrored=True,
        iterations={1: 5_000, 10: 2_000}, n_subset={10: 500},
    ),
    "cub200": Preset(
        "bentrevett/caltech-ucsd-birds-200-2011", resolution=32, mirrored=True,
        iterations={1: 10_000, 10: 2_000},
    ),
    "imagenette": Preset(
        "frgfm/imagenette", config="160px", test_split="validation", resolution=128, mirrored=True,
        iterations=_LARGE,
    ),
    "imagewoof": Preset(
        "frgfm/imagewoof", config="160px", test_split="validation", resolution=128, mirrored=True,
        iterations=_LARGE,
    ),
    "imagenet64": Preset(
        "benjamin-paine/imagenet-1k-64x64", test_split="validation", resolution=64, mirrored=True,
        iterations={1: 2_000, 2: 2_000}, n_subset={1: 500, 2: 500},
    ),
}  # fmt: skip
"""The named data sets besides `digits`, which comes with scikit-learn; at the resolutions and with
the settings of the RCIG paper (table 7, appendix C).
"""
