"""What open settings are filled with."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ..data import PRESETS
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
    preset = PRESETS.get(config.dataset)
    filled = {**_by_shape(image_shape), **_RATES[config.solve], **_USUAL}
    if config.dataset == "digits":
        filled |= _DIGITS
    if preset is not None and config.ipc in preset.iterations:
        filled["iterations"] = preset.iterations[config.ipc]
    filled["n_subset"] = None if preset is None else preset.n_subset.get(config.ipc)
    few = config.ipc * classes <= 1000
    mirrored = preset is not None and preset.mirrored
    filled["flip"] = mirrored and image_shape[2] == 3 and few
    filled |= of_method
    given = {name: value for name, value in filled.items() if getattr(config, name) is None}
    config = replace(config, **given)
    evaluation = config.evaluation.with_judge()
    rate = 3e-4 if evaluation.network == "resnet18" else 1e-4
    if evaluation.optimiser == "sgd":
        rate = 1e-2
    evaluation = replace(
        evaluation,
        steps=evaluation.steps or (1000 if config.ipc * classes <= 10 else 2000),
        learning_rate=evaluation.learning_rate or rate,
    )
    return replace(config, evaluation=evaluation)


_USUAL = dict(
    init="real", norm="none", coreset_optimiser="adabelief", pool_size=30, pool_rate=5e-5,
    pool_steps=15, pool_max_steps=100, inner_steps=200, inner_rate=1e-3, window=60, networks=8,
    trajectories=20, start_epochs=20, match_epochs=2,
)  # fmt: skip
"""What no data set changes, where a method has no other wish."""

_RATES: dict[Solve, dict[str, float]] = {
    "linear": dict(coreset_rate=3e-2, coreset_decay=0.1),
    "adam": dict(coreset_rate=3e-3, coreset_decay=1.0),
}
"""Rates of the coreset's optimiser by way of solving: those of the paper are for its own way."""

_DIGITS = dict(width=64, depth=2, padding=0, batch_size=256, iterations=500)


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
