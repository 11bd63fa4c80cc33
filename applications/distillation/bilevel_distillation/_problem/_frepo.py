"""FRePo: the body as it is drawn, and the last layer in closed form."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from ..networks import AbstractNetwork
from ._coreset import Coreset
from ._implicit import Images
from ._losses import squared_error
from ._method import OneHot
from ._reparameterized import AbstractReparameterized


class FRePo(AbstractReparameterized):
    """Neural feature regression (Zhou et al., 2022): RCIG with the body frozen, u = 0.

    Attributes:
        platt: the Platt loss instead of the squared error.
    """

    platt: bool = eqx.field(default=False, static=True)
    implicit: ClassVar[bool] = False

    def start(self, network: AbstractNetwork) -> Any:
        return jax.tree.map(lambda leaf: None, network)

    def features_and_offset(
        self, theta: Any, network: AbstractNetwork, images: Images
    ) -> tuple[Float[Array, "n features"], OneHot]:
        features, outputs = network.features_and_outputs(images)
        return features, jnp.zeros_like(outputs)

    def loss(self, predictions: OneHot, targets: OneHot, coreset: Coreset) -> Scalar:
        if self.platt:
            return super().loss(predictions, targets, coreset)
        return squared_error(predictions, targets - 1 / targets.shape[1])
