"""RCIG: the body linearised, and the last layer in closed form."""

from bilevel import linearize

from ..networks import is_body
from ._implicit import AbstractLinearized
from ._reparameterized import AbstractReparameterized


class RCIG(AbstractReparameterized, AbstractLinearized):
    """Reparameterised convexified implicit gradients (section 3.3): u = J(base) theta."""

    closed_form = True

    def moving(self, network):
        return is_body(network)

    def features_and_offset(self, theta, network, images):
        linear = linearize(network, filter_spec=is_body(network)).at(theta)
        (features, _), (_, offset) = linear.value_and_tangent(
            lambda net, x: net.features_and_outputs(x), images
        )
        return features, offset
