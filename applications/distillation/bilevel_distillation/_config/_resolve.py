"""What open settings are filled with."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ._run import RunConfig
from ._types import Solve


def resolve(
    config: RunConfig,
    image_shape: tuple[int, int, int],
    classes: int = 10,
    of_method: Mapping[str, Any] = MappingProxyType({}),
) -> RunConfig:
    """The config with every open setting filled in, from the data set's preset, the shape of its
    images and its number of classes; what a method of its own wants comes before all of them.
    """
    preset = _PRESETS.get(config.dataset, {})
    filled = {**_by_shape(image_shape), **_RATES[config.solve], **preset}
    few = config.ipc * classes <= 1000
    filled["flip"] = config.dataset in MIRRORED and image_shape[2] == 3 and few
    for name in ("iterations", "n_subset"):
        by_ipc = filled.pop(f"{name}_by_ipc", {})
        filled[name] = by_ipc.get(config.ipc, filled.get(name))
    filled |= of_method
    given = {name: value for name, value in filled.items() if getattr(config, name) is None}
    config = replace(config, **given)
    evaluation = config.evaluation
    rate = 3e-4 if evaluation.network == "resnet18" else 1e-4
    evaluation = replace(
        evaluation,
        steps=evaluation.steps or (1000 if config.ipc * classes <= 10 else 2000),
        learning_rate=evaluation.learning_rate or rate,
    )
    return replace(config, evaluation=evaluation)


_RATES: dict[Solve, dict[str, float]] = {
    "linear": dict(coreset_rate=3e-2, coreset_decay=0.1),
    "adam": dict(coreset_rate=3e-3, coreset_decay=1.0),
}
"""Rates of the coreset's optimiser by way of solving: those of the paper are for its own way."""

_SMALL = dict(iterations_by_ipc={1: 15_000, 10: 10_000, 50: 5_000})
_LARGE = dict(iterations_by_ipc={1: 6_000, 10: 3_000})
_PRESETS: dict[str, dict[str, Any]] = {
    "digits": dict(width=64, depth=2, padding=0, batch_size=256, iterations=500),
    "mnist": _SMALL,
    "fashion_mnist": _SMALL,
    "cifar10": _SMALL,
    "cifar100": dict(
        iterations_by_ipc={1: 10_000, 10: 5_000, 50: 4_000}, n_subset_by_ipc={50: 2_000}
    ),
    "tiny_imagenet": dict(iterations_by_ipc={1: 5_000, 10: 2_000}, n_subset_by_ipc={10: 500}),
    "cub200": dict(iterations_by_ipc={1: 10_000, 10: 2_000}),
    "imagenette": _LARGE,
    "imagewoof": _LARGE,
    "imagenet64": dict(iterations_by_ipc={1: 2_000, 2: 2_000}, n_subset_by_ipc={1: 500, 2: 500}),
}
"""Settings of the RCIG paper (table 7, appendix C) where it has the data set."""


MIRRORED = frozenset(
    {"cifar10", "cifar100", "tiny_imagenet", "cub200", "imagenette", "imagewoof", "imagenet64"}
)
"""Whose images are as likely as their mirror images; of others that is not known."""


def _by_shape(image_shape: tuple[int, int, int]) -> dict[str, Any]:
    height, _, channels = image_shape
    depth = 3 if height < 64 else 4 if height < 128 else 5
    colour = channels == 3
    return dict(
        iterations=5_000,
        batch_size=1024,
        width=128,
        depth=depth,
        padding=2 if (height == 28 and not colour) else 0,
        ridge_rate={3: 5e-4, 4: 5e-3, 5: 5e-2}[depth],
        zca=colour,
        smooth=depth == 3,
    )
