"""What methods that unroll training on the distilled images, with fixed labels, share."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Scalar

from .._problem import Coreset, cross_entropy
from .._running import compiled

ADAM = optax.adam(1.0, eps_root=1e-16)
"""A weight whose gradient has been zero so far, as of a dead unit, has a root of zero otherwise,
whose derivative does not exist.
"""
MOST, DECAY = 2.0, 0.9
"""Clipping: at so many times the moving average of norms, which keeps so much of itself."""


def training_loss(
    weights: Any,
    rest: Any,
    images: Float[Array, "n height width channels"],
    coreset: Coreset,
) -> Scalar:
    """The cross-entropy of a network, in two parts, on the coreset's images, changed perhaps, and
    the classes that its labels are largest at.
    """
    labels = coreset.support()[1]
    hard = jax.nn.one_hot(labels.argmax(1), labels.shape[1], dtype=labels.dtype)
    return cross_entropy(eqx.combine(weights, rest)(images), hard)


@compiled
def clipped(grad: Coreset, average: Scalar) -> tuple[Coreset, Scalar, Scalar]:
    """The images' gradient clipped, the moving average of its norm, and what is left of it."""
    norm = jnp.linalg.norm(grad.images)
    known = jnp.where(average > 0, average, norm)
    share = jnp.minimum(1, MOST * known / jnp.where(norm > 0, norm, 1))
    images = share * grad.images
    average = DECAY * known + (1 - DECAY) * share * norm
    return eqx.tree_at(lambda one: one.images, grad, images), average, share
