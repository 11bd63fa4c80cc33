"""Methods that match what real and distilled images of a class do to a network."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, Scalar

from .._problem import AbstractMethod, Batch, Coreset, MetaGradient, rows_of_classes
from .._running import compiled, join, slices
from ..data import augment_alike
from ..networks import AbstractNetwork
from ._training import by_descent

Images = Float[Array, "n height width channels"]
OfClasses = Float[Array, "classes n height width channels"]


class AbstractMatching(AbstractMethod):
    """What is minimised is a distance of a statistic of real and of distilled images, summed over
    classes:

        sum_c  distance( statistic(real images of class c), statistic(distilled images of c) ) .

    It depends on the images alone: their labels stay those that they began with.

    Attributes:
        augmented: change the real and the distilled images of a class by one random augmentation
            first, drawn for each class.
    """

    augmented: bool = eqx.field(default=False, static=True)

    @abc.abstractmethod
    def statistic(
        self, network: AbstractNetwork, images: Images, targets: Float[Array, "n classes"]
    ) -> Any:
        """Of images of one class, and their one-hot labels."""

    @abc.abstractmethod
    def distance(self, real: Any, distilled: Any) -> Scalar:
        """How far two statistics are apart."""

    def rows(
        self, rng: np.random.Generator, labels: Int[np.ndarray, " samples"], size: int
    ) -> Int[np.ndarray, " batch"]:
        return rows_of_classes(rng, labels, size)

    def objective(self, coreset: Coreset, batch: Batch) -> Scalar:
        """What is minimised, as a function of the coreset; the rows of the batch, and those of the
        coreset, are sorted by class, as many of each.
        """
        return _total(self, coreset, batch.network, batch.key, self.of_real(batch))

    def gradient(self, coreset: Coreset, batch: Batch) -> MetaGradient:
        arguments = batch.network, batch.key, self.of_real(batch)
        value, grad = _value_and_grad(self, coreset, *arguments)
        return MetaGradient(value=value, direct=grad)

    def of_real(self, batch: Batch) -> Any:
        """The statistics of the real images, class by class."""
        classes = batch.targets.shape[1]
        images = batch.images.reshape(classes, -1, *batch.images.shape[1:])
        parts = zip(slices(images, 1), slices(jnp.arange(classes), 1), strict=True)
        found = [_statistics(self, batch.network, *part, classes, batch.key) for part in parts]
        return join(found)

    @classmethod
    def own_recipe(cls: Any, n: int) -> Any:
        """That of the authors' code: stochastic gradient descent for 1,000 epochs, augmented."""
        return by_descent(n, 1000) | {"augment": True}


def images_of_classes(coreset: Coreset) -> OfClasses:
    """The distilled images class by class, mirror images included where there are any."""
    classes = coreset.labels.shape[1]
    images = coreset.images.reshape(classes, -1, *coreset.images.shape[1:])
    if not coreset.flip:
        return images
    return jnp.concatenate([images, images[:, :, :, ::-1]], axis=1)


@compiled
def _statistics(
    method: AbstractMatching,
    network: AbstractNetwork,
    images: OfClasses,
    of: Int[Array, " classes"],
    classes: int,
    key: PRNGKeyArray | None,
) -> Any:
    """The statistics of images of some classes, stacked."""

    def one(images, label):
        if method.augmented:
            if key is None:
                raise ValueError("key of the batch is None, and images are augmented: give a key.")
            images = augment_alike(images, jax.random.fold_in(key, label))
        target = jax.nn.one_hot(label, classes, dtype=images.dtype)
        targets = jnp.broadcast_to(target, (images.shape[0], classes))
        return method.statistic(network, images, targets)

    return jax.vmap(one)(images, of)


def _total(method: AbstractMatching, coreset: Coreset, network, key, real) -> Scalar:
    images = images_of_classes(coreset)
    classes = images.shape[0]
    found = _statistics(method, network, images, jnp.arange(classes), classes, key)
    return jnp.sum(jax.vmap(method.distance)(real, found))


@compiled
def _value_and_grad(method: AbstractMatching, coreset: Coreset, network, key, real):
    def total(coreset):
        return _total(method, coreset, network, key, real)

    return eqx.filter_value_and_grad(total)(coreset)
