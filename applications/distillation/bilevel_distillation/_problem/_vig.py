"""VIG: the network as it is."""

import equinox as eqx

from ..networks import is_parameter
from ._fully_trained import AbstractFullyTrained


class VIG(AbstractFullyTrained):
    """Vanilla implicit gradients (RCIG paper, section 3.1). theta: all parameters."""

    def start(self, network):
        return eqx.filter(network, is_parameter(network))

    def predict(self, theta, network, images):
        return eqx.combine(theta, network)(images)
