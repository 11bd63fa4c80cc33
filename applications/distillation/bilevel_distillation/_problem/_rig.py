"""RIG: the body as it is, beside its base."""

import equinox as eqx

from bilevel import linearize

from ..networks import is_body
from ._reparameterized import AbstractReparameterized


class RIG(AbstractReparameterized):
    """Reparameterised implicit gradients (section 3.3 without 3.2): u = f(base + theta) - f(base),
    f with the last layer of the base.
    """

    def start(self, network):
        return linearize(network, filter_spec=is_body(network)).tangent

    def features_and_offset(self, theta, network, images):
        features, outputs = network.features_and_outputs(images)
        return features, eqx.apply_updates(network, theta)(images) - outputs
