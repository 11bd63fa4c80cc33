"""Outer losses; predictions and labels have one row a sample."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Scalar


def squared_error(predictions: Float[Array, "n c"], targets: Float[Array, "n c"]) -> Scalar:
    """Half the squared distance, mean over samples."""
    return 0.5 * jnp.mean(jnp.sum((predictions - targets) ** 2, axis=1))


def cross_entropy(outputs: Float[Array, "n c"], targets: Float[Array, "n c"]) -> Scalar:
    """Of the softmax of outputs, for targets that are one-hot; mean over samples."""
    return jnp.mean(optax.losses.softmax_cross_entropy(outputs, targets))


def shares(labels: Float[Array, "n c"]) -> Float[Array, "n c"]:
    """Soft labels, centred or not, as shares of 1: what is negative once the mean is 1/c counts as
    zero. Centred one-hot labels become one-hot.
    """
    lifted = jnp.maximum(labels - jnp.mean(labels, 1, keepdims=True) + 1 / labels.shape[1], 0)
    return lifted / jnp.sum(lifted, 1, keepdims=True)


def soft_cross_entropy(outputs: Float[Array, "n c"], labels: Float[Array, "n c"]) -> Scalar:
    """Of the softmax of outputs, for `shares` of soft labels; mean over samples."""
    return cross_entropy(outputs, shares(labels))


def platt_loss(
    predictions: Float[Array, "n c"], targets: Float[Array, "n c"], log_temperature: Scalar
) -> Scalar:
    """Cross-entropy of predictions / tau with tau = exp(-log_temperature), mean over samples.

    Source: RCIG, section 3.3 (Platt scaling with a learned temperature).
    """
    return cross_entropy(predictions * jnp.exp(log_temperature), targets)


def label_margin(labels: Float[Array, "n c"]) -> Scalar:
    """Mean over samples of min(top label - second label, 1/(2 classes)).

    The authors' released code subtracts it from the outer loss; the paper does not name it.
    """
    ordered = jnp.sort(labels, axis=1)
    return jnp.mean(jnp.minimum(ordered[:, -1] - ordered[:, -2], 0.5 / labels.shape[1]))
