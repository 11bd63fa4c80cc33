"""Methods that train the body alone: the last layer is solved in closed form."""

import abc
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from bilevel import RidgeHead, reparameterize_last_layer

from .._running import in_parts
from ..networks import AbstractNetwork
from ._coreset import Coreset
from ._implicit import AbstractImplicit, Images, sum_of_squares
from ._losses import label_margin, platt_loss
from ._method import OneHot


class AbstractReparameterized(AbstractImplicit):
    """RIG, RCIG and FRePo: theta moves the body, the last layer is solved in closed form.

    With h the last hidden layer of the frozen base, u(theta, x) what theta adds to the outputs,
    and W* the ridge head of h on `y - u` (equations 3 and 4), predictions are `u + h W*`.

    Attributes:
        margin: whether the label margin term of the authors' code is in the outer loss.
    """

    margin: bool = eqx.field(default=True, static=True)

    @abc.abstractmethod
    def features_and_offset(
        self, theta: Any, network: AbstractNetwork, images: Images
    ) -> tuple[Float[Array, "n features"], OneHot]:
        """h(x) and u(theta, x)."""

    def inner(
        self,
        theta: Any,
        coreset: Coreset,
        network: AbstractNetwork,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Scalar:
        return self._reduced(self._inner, coreset, key)(theta, coreset, network)

    def outer(
        self,
        theta: Any,
        coreset: Coreset,
        network: AbstractNetwork,
        images: Images,
        targets: OneHot,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Scalar, OneHot]:
        reduced = self._reduced(self._outer, coreset, key)
        return reduced(theta, coreset, network, images, targets)

    def _reduced(self, loss, coreset, key):
        def last_layer(theta, coreset, network, *batch):
            images, labels = coreset.support()
            features, offset = self.on_support(
                self.features_and_offset, theta, network, images, key
            )
            return features, labels - offset

        return reparameterize_last_layer(loss, last_layer, self.ridge(coreset))

    def _inner(self, theta, head: RidgeHead, coreset, network):
        loss = head.objective() + 0.5 * self.ridge(coreset) * sum_of_squares(theta)
        return self.per_output(loss, coreset)

    def _outer(self, theta, head: RidgeHead, coreset, network, images, targets):
        features, offset = in_parts(
            lambda x: self.features_and_offset(theta, network, x), images, self.microbatch
        )
        predictions = offset + head(features)
        return self.loss(predictions, targets, coreset), predictions

    def loss(self, predictions: OneHot, targets: OneHot, coreset: Coreset) -> Scalar:
        value = platt_loss(predictions, targets, coreset.log_temperature)
        return value - label_margin(coreset.labels) if self.margin else value
