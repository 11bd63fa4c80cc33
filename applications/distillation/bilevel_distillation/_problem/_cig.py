"""CIG: the network linearised."""

from typing import Any

from bilevel import linearize

from ..networks import AbstractNetwork, is_parameter
from ._fully_trained import AbstractFullyTrained
from ._implicit import AbstractLinearized, Images
from ._method import OneHot


class CIG(AbstractFullyTrained, AbstractLinearized):
    """Convexified implicit gradients (section 3.2). theta: the tangent of all parameters."""

    def moving(self, network: AbstractNetwork) -> Any:
        return is_parameter(network)

    def predict(self, theta: Any, network: AbstractNetwork, images: Images) -> OneHot:
        return linearize(network, filter_spec=self.moving(network)).at(theta)(images)
