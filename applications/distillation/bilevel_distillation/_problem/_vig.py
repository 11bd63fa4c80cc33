"""VIG: the network as it is."""

from typing import Any

import equinox as eqx

from ..networks import AbstractNetwork, is_parameter
from ._fully_trained import AbstractFullyTrained
from ._implicit import Images
from ._method import OneHot


class VIG(AbstractFullyTrained):
    """Vanilla implicit gradients (RCIG paper, section 3.1). theta: all parameters."""

    def start(self, network: AbstractNetwork) -> Any:
        return eqx.filter(network, is_parameter(network))

    def predict(self, theta: Any, network: AbstractNetwork, images: Images) -> OneHot:
        return eqx.combine(theta, network)(images)
