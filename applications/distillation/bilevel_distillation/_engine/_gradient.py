"""The gradient of the coreset on a batch, augmentation included."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from .._problem import Batch, Coreset, MetaGradient
from .._running import compiled
from ..data import augment
from ._pool import with_statistics
from ._state import Metrics, Recipe


def coreset_gradient(recipe: Recipe, coreset: Coreset, batch: Batch) -> MetaGradient:
    """The derivative of the method's outer loss on a batch with respect to the coreset.

    The batch's key also draws how the distilled images are augmented. The statistics of batch
    normalisation are those of the coreset, and held fixed.
    """
    if not recipe.augment:
        return _gradient(recipe, coreset, batch)
    key = batch.key
    if key is None:
        raise ValueError("key of the batch is None, and augment=True draws: give a key.")
    result = _gradient(recipe, _augmented(coreset, key), batch)
    return result.through(lambda gradient: _to_stored(coreset, key, gradient))


def _gradient(recipe: Recipe, coreset: Coreset, batch: Batch) -> MetaGradient:
    network = with_statistics(batch.network, coreset)
    if network is not batch.network:
        batch = eqx.tree_at(lambda one: one.network, batch, network)
    return recipe.method.gradient(coreset, batch)


@compiled
def _augmented(coreset: Coreset, key: PRNGKeyArray) -> Coreset:
    changed = augment(coreset.images, jax.random.fold_in(key, 1))
    return eqx.tree_at(lambda one: one.images, coreset, changed)


@compiled
def _to_stored(coreset: Coreset, key: PRNGKeyArray, gradient: Coreset) -> Coreset:
    """A derivative with respect to the augmented coreset, taken back to the stored one."""
    _, pull = jax.vjp(lambda coreset: _augmented(coreset, key), coreset)
    return pull(gradient)[0]


def metrics_of(result: MetaGradient, targets: Array) -> Metrics:
    """What is written of a gradient on a batch with these targets."""
    values = result.measures()
    if result.predictions is not None:
        hits = jnp.argmax(result.predictions, axis=1) == jnp.argmax(targets, axis=1)
        values = {"loss": values["loss"], "accuracy": jnp.mean(hits)} | values
    return Metrics(values)
