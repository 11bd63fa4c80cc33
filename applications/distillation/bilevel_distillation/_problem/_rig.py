"""RIG: the body as it is, beside its base."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from bilevel import linearize

from ..networks import AbstractNetwork, is_body
from ._implicit import Images
from ._method import OneHot
from ._reparameterized import AbstractReparameterized


class RIG(AbstractReparameterized):
    """Reparameterised implicit gradients (section 3.3 without 3.2): u = f(base + theta) - f(base),
    f with the last layer of the base.
    """

    def start(self, network: AbstractNetwork) -> Any:
        return linearize(network, filter_spec=is_body(network)).tangent

    def features_and_offset(
        self, theta: Any, network: AbstractNetwork, images: Images
    ) -> tuple[Float[Array, "n features"], OneHot]:
        features, outputs = network.features_and_outputs(images)
        return features, eqx.apply_updates(network, theta)(images) - outputs
