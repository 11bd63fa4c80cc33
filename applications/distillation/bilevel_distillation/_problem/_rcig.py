"""RCIG: the body linearised, and the last layer in closed form."""

from typing import Any, ClassVar

from jaxtyping import Array, Float

from bilevel import linearize

from ..networks import AbstractNetwork, is_body
from ._implicit import AbstractLinearized, Images
from ._method import OneHot
from ._reparameterized import AbstractReparameterized


class RCIG(AbstractReparameterized, AbstractLinearized):
    """Reparameterised convexified implicit gradients (section 3.3): u = J(base) theta."""

    closed_form: ClassVar[bool] = True

    def moving(self, network: AbstractNetwork) -> Any:
        return is_body(network)

    def features_and_offset(
        self, theta: Any, network: AbstractNetwork, images: Images
    ) -> tuple[Float[Array, "n features"], OneHot]:
        linear = linearize(network, filter_spec=is_body(network)).at(theta)
        (features, _), (_, offset) = linear.value_and_tangent(
            lambda net, x: net.features_and_outputs(x), images
        )
        return features, offset
