"""What a method does once, before the first step."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import jax
from jaxtyping import PyTree

from .._problem import Real, Rows
from ._makers import distilling_maker

if TYPE_CHECKING:
    from ._distillation import Distillation

WIDEST = 32
"""Channels of the first convolution in a network that only looks."""


def choose(distillation: "Distillation") -> Rows:
    """The real images that a method chooses."""
    config, data = distillation.config, distillation.data
    make = distillation.recipe.make_network
    if not distillation.has_own_network:
        narrow = replace(config, width=min(config.width or WIDEST, WIDEST))
        make = distilling_maker(narrow, data.image_shape, data.classes)
    real = Real(data.train_labels, data.classes, distillation.real_batch, make)
    key = jax.random.fold_in(jax.random.key(config.seed), 5)
    rows = distillation.recipe.method.choose(real, config.ipc, key)
    assert rows is not None, "a method that takes no steps chooses"
    return rows


def prepare_once(distillation: "Distillation", done: Callable[[], None]) -> PyTree:
    """What a method makes of all real images: the same for any seed of a run."""
    return distillation.recipe.method.prepare(_all_of(distillation), jax.random.key(0), done)


def rehearse_once(distillation: "Distillation") -> float | None:
    """Seconds that this will take, if the method can tell."""
    return distillation.recipe.method.rehearse(_all_of(distillation), jax.random.key(0))


def _all_of(distillation: "Distillation") -> Real:
    data, recipe = distillation.data, distillation.recipe
    return Real(data.train_labels, data.classes, distillation.real_batch, recipe.make_network)
