"""The network as the two systems see it: outputs as a function of the parameters that move."""

import equinox as eqx
import jax
from jaxtyping import Array, Float, PyTree

from .._problem import AbstractLinearized
from .._running import in_parts
from ..networks import AbstractNetwork

Images = Float[Array, "m height width channels"]


class Model(eqx.Module):
    """A network split into the parameters that move in the inner problem and all else."""

    method: AbstractLinearized
    body: PyTree[Array]
    rest: AbstractNetwork

    @property
    def network(self) -> AbstractNetwork:
        return eqx.combine(self.body, self.rest)

    def features_and_outputs(self, body, images):
        return eqx.combine(body, self.rest).features_and_outputs(images)

    def along(self, tangents, images):
        """h, and J times each of the tangents."""

        def outputs_and_features(body):
            return self.features_and_outputs(body, images)[::-1]

        if len(tangents) == 1:
            (_, h), (u, _) = jax.jvp(outputs_and_features, (self.body,), tangents)
            return h, (u,)
        _, linear, h = jax.linearize(outputs_and_features, self.body, has_aux=True)
        return h, tuple(map(linear, tangents))


class ModelOutputs(eqx.Module):
    """The outputs on some images as a function of the moving parameters."""

    model: Model
    images: Images

    def __call__(self, body):
        def outputs(images):
            return self.model.features_and_outputs(body, images)[1]

        return in_parts(outputs, self.images, self.model.method.microbatch, remat=True)
