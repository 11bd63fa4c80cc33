"""Methods that train all layers: the outer loss is the squared error."""

import abc
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, Scalar

from .._running import in_parts
from ..networks import AbstractNetwork
from ._coreset import Coreset
from ._implicit import AbstractImplicit, Images, sum_of_squares
from ._losses import squared_error
from ._method import OneHot


class AbstractFullyTrained(AbstractImplicit):
    """VIG and CIG: all layers are trained, and the outer loss is the squared error."""

    direct: ClassVar[bool] = False

    @abc.abstractmethod
    def predict(self, theta: Any, network: AbstractNetwork, images: Images) -> OneHot:
        """The inner problem's model."""

    def inner(
        self,
        theta: Any,
        coreset: Coreset,
        network: AbstractNetwork,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Scalar:
        images, labels = coreset.support()
        error = self.on_support(self.predict, theta, network, images, key) - labels
        loss = 0.5 * jnp.sum(error**2) + 0.5 * self.ridge(coreset) * sum_of_squares(theta)
        return self.per_output(loss, coreset)

    def outer(
        self,
        theta: Any,
        coreset: Coreset,
        network: AbstractNetwork,
        images: Images,
        targets: OneHot,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Scalar, OneHot]:
        predictions = in_parts(lambda x: self.predict(theta, network, x), images, self.microbatch)
        return self.loss(predictions, targets, coreset), predictions

    def loss(self, predictions: OneHot, targets: OneHot, coreset: Coreset) -> Scalar:
        return squared_error(predictions, targets - 1 / targets.shape[1])
