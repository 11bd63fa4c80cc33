"""Runs whose numbers have gone beyond all measure."""

from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

if TYPE_CHECKING:
    from ._distillation import Distillation

MOST = 1e6
"""Preprocessed images are about 1: beyond this there is nothing left of them."""


class Diverged(ValueError):
    """The numbers of a run are no longer finite, or beyond all measure."""


def diverged(distillation: "Distillation", what: str) -> Diverged:
    """The error, with the rates of what diverged."""
    names = ["coreset_rate"]
    if not is_sound(distillation.whole_state().pool):
        names.append("pool_rate")
    config = distillation.config
    rates = " and ".join(f"{name}={getattr(config, name):g}" for name in names)
    flags = " or ".join(f"--{name.replace('_', '-')}" for name in names)
    return Diverged(
        f"the run diverged: at iteration {distillation.iteration} {what} went beyond all measure, "
        f"at {rates}: give a smaller {flags}, in another --out."
    )


def is_sound(tree: PyTree) -> bool:
    """Whether all numbers are finite and not beyond all measure."""
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    return all(bool(jnp.all(jnp.abs(leaf) < MOST)) for leaf in leaves)  # NaN is not
