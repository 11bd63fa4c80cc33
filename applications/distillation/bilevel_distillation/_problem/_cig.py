"""CIG: the network linearised."""

from bilevel import linearize

from ..networks import is_parameter
from ._fully_trained import AbstractFullyTrained
from ._implicit import AbstractLinearized


class CIG(AbstractFullyTrained, AbstractLinearized):
    """Convexified implicit gradients (section 3.2). theta: the tangent of all parameters."""

    def moving(self, network):
        return is_parameter(network)

    def predict(self, theta, network, images):
        return linearize(network, filter_spec=self.moving(network)).at(theta)(images)
