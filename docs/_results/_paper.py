"""The figures of the RCIG paper."""

NAMES = {
    "mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100", "tiny_imagenet": "Tiny ImageNet", "cub200": "CUB-200",
    "imagenette": "ImageNette", "imagewoof": "ImageWoof", "imagenet64": "ImageNet, 64 pixels",
    "digits": "digits",
}  # fmt: skip


METHODS = ("random subset", "vig", "cig", "rig", "rcig")


TABLE_1 = {
    ("mnist", 1): ("62.7 ± 1.0", "77.4 ± 1.4", "69.2 ± 1.4", "94.8 ± 0.4", "94.8 ± 0.4"),
    ("mnist", 10): ("93.2 ± 0.2", "90.2 ± 0.6", "95.4 ± 0.3", "98.6 ± 0.1", "98.9 ± 0.0"),
    ("mnist", 50): ("97.8 ± 0.1", "91.4 ± 0.4", "95.8 ± 0.2", "98.9 ± 0.1", "99.2 ± 0.0"),
    ("cifar10", 1): ("20.8 ± 0.5", "26.5 ± 1.2", "29.7 ± 1.0", "44.5 ± 4.3", "52.8 ± 0.8"),
    ("cifar10", 10): ("38.4 ± 0.4", "54.6 ± 0.1", "56.5 ± 0.6", "66.2 ± 0.8", "69.2 ± 0.4"),
    ("cifar10", 50): ("54.4 ± 0.3", "35.6 ± 0.6", "56.7 ± 0.6", "62.1 ± 4.0", "73.3 ± 0.3"),
    ("cifar100", 1): ("6.2 ± 0.1", "17.8 ± 0.1", "19.7 ± 0.6", "18.4 ± 2.8", "39.6 ± 0.2"),
    ("cifar100", 10): ("21.1 ± 0.1", "29.3 ± 0.1", "31.4 ± 0.2", "46.1 ± 0.2", "44.1 ± 0.3"),
}
"""Test accuracy, %, rounded to a decimal."""


PAPER = {
    "mnist/1": ("94.7 ± 0.5", 0.16, 15_000), "mnist/10": ("98.9 ± 0.0", 0.45, 10_000),
    "mnist/50": ("99.2 ± 0.0", 1.98, 5_000), "fashion_mnist/1": ("79.8 ± 1.1", 0.16, 15_000),
    "fashion_mnist/10": ("88.5 ± 0.2", 0.45, 10_000),
    "fashion_mnist/50": ("90.2 ± 0.2", 1.92, 5_000),
    "cifar10/1": ("53.9 ± 1.0", 0.18, 15_000), "cifar10/10": ("69.1 ± 0.4", 0.65, 10_000),
    "cifar10/50": ("73.5 ± 0.3", 2.94, 5_000), "cifar100/1": ("39.3 ± 0.4", 0.68, 10_000),
    "cifar100/10": ("44.1 ± 0.4", 6.15, 5_000), "cifar100/50": ("46.7 ± 0.3", 10.09, 4_000),
    "tiny_imagenet/1": ("25.6 ± 0.3", 5.60, 5_000),
    "tiny_imagenet/10": ("29.4 ± 0.2", 11.58, 2_000),
    "cub200/1": ("12.1 ± 0.2", 0.99, 10_000), "cub200/10": ("15.7 ± 0.3", 17.24, 2_000),
    "imagenette/1": ("53.0 ± 0.9", 3.03, 6_000), "imagenette/10": ("65.0 ± 0.7", 15.15, 3_000),
    "imagewoof/1": ("33.9 ± 0.6", 2.87, 6_000), "imagewoof/10": ("42.2 ± 0.7", 13.22, 3_000),
    "imagenet64/1": ("15.6 ± 0.2", 8.55, 2_000), "imagenet64/2": ("16.6 ± 0.1", 12.37, 2_000),
}  # fmt: skip
"""Accuracy in % (tables 2 and 4), seconds an iteration and iterations (table 7)."""


TABLE_2 = {
    "mnist/1": {"dsa": "88.7 ± 0.6", "dm": "89.9 ± 0.8", "kip": "90.1 ± 0.1",
                "rfad": "94.4 ± 1.5", "mtt": "91.4 ± 0.9", "frepo": "93.0 ± 0.4",
                "rcig": "94.7 ± 0.5"},
    "mnist/10": {"dsa": "97.9 ± 0.1", "dm": "97.6 ± 0.1", "kip": "97.5 ± 0.0",
                 "rfad": "98.5 ± 0.1", "mtt": "97.3 ± 0.1", "frepo": "98.6 ± 0.1",
                 "rcig": "98.9 ± 0.0"},
    "cifar10/1": {"dsa": "36.7 ± 0.8", "dm": "31.0 ± 0.6", "kip": "49.9 ± 0.2",
                  "rfad": "53.6 ± 1.2", "mtt": "46.3 ± 0.8", "frepo": "46.8 ± 0.7",
                  "rcig": "53.9 ± 1.0"},
    "cifar10/10": {"dsa": "53.2 ± 0.8", "dm": "49.2 ± 0.8", "kip": "62.7 ± 0.3",
                   "rfad": "66.3 ± 0.5", "mtt": "65.3 ± 0.7", "frepo": "65.5 ± 0.4",
                   "rcig": "69.1 ± 0.4"},
}  # fmt: skip
"""By system, each by its authors' networks; BPTT came later, and chosen images are not in it."""


TABLE_3 = {
    ("convnet", "none"): ("69.1 ± 0.4", "66.0 ± 0.6"),
    ("resnet18", "batch"): ("49.7 ± 1.4", "54.8 ± 1.1"),
    ("vgg11", "batch"): ("46.2 ± 1.8", "55.4 ± 1.1"),
    ("alexnet", "none"): ("60.8 ± 1.8", "62.1 ± 0.8"),
}
"""Distilled by a network without normalisation, and with batch normalisation."""


TABLE_5 = {
    "threshold": ("0.49 ± 0.00", "0.52 ± 0.00", "0.99 ± 0.01"),
    "logistic_regression": ("0.50 ± 0.00", "0.50 ± 0.01", "0.99 ± 0.00"),
    "mlp": ("0.53 ± 0.00", "0.53 ± 0.01", "1.00 ± 0.00"),
    "random_forest": ("0.53 ± 0.00", "0.55 ± 0.00", "1.00 ± 0.00"),
    "nearest_neighbours": ("0.52 ± 0.00", "0.54 ± 0.00", "0.97 ± 0.00"),
    "test accuracy, %": ("98.9 ± 0.0", "96.8 ± 0.2", "99.2 ± 0.1"),
}
"""RCIG, a random subset of 500 images, the real data."""


FIGURE_5 = {200: ("10.0", "45.9 ± 0.4"), 500: ("", ""), 1000: ("", ""), 2000: ("", ""),
            5000: ("26.7", "47.3 ± 0.3")}  # fmt: skip
"""Memory in Gb and accuracy in %, where the text gives them."""
