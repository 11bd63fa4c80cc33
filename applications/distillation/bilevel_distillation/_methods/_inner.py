"""A training step on distilled images whose labels are fixed."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, Scalar

from .._problem import Coreset, cross_entropy


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
