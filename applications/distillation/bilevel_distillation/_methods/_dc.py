"""DC and DSA: the gradient of the training loss on a class."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._problem import cross_entropy
from ..networks import AbstractNetwork, is_parameter
from ._matching import AbstractMatching
from ._training import by_descent


class DC(AbstractMatching):
    """Gradient matching (Zhao, Mopuri and Bilen, "Dataset condensation with gradient matching",
    2021, equation 9, and its appendix A for the distance):

        sum_c sum_layers sum_outputs  1 - cos( g of real images of c, g of distilled images of c ) ,

    g the derivative of the cross-entropy with respect to the weights that lead to one output of a
    layer. Biases and normalisation are left out, as in the authors' code. The network is one that
    is trained on the distilled images between the steps, and renewed after so many.

    Settings are those of the authors' code: 256 real images of each of ten classes, stochastic
    gradient descent with momentum 0.5 at rate 0.1, instance normalisation, a beginning from noise;
    a network has 1 training step for 1 image per class, 500 (50 after each use) for up to ten and
    500 (10) beyond. Its optimiser is Adam here, at 1e-3, where theirs is stochastic gradient
    descent at 0.01.
    """

    def statistic(self, network: AbstractNetwork, images: Array, targets: Array) -> Any:
        weights, rest = eqx.partition(network, is_parameter(network))

        def loss(weights):
            return cross_entropy(eqx.combine(weights, rest)(images), targets)

        return [one for one in jax.tree.leaves(jax.grad(loss)(weights)) if one.ndim > 1]

    def distance(self, real: Any, distilled: Any) -> Any:
        pairs = zip(real, distilled, strict=True)
        return sum((_apart(*pair) for pair in pairs), jnp.zeros(()))

    def pool_loss(self, outputs: Array, labels: Array) -> Any:
        return cross_entropy(outputs, jax.nn.one_hot(labels.argmax(1), labels.shape[1]))

    @classmethod
    def presets(cls: Any, dataset: str, ipc: int) -> Any:
        short = {} if dataset == "digits" else {"iterations": 1_000, "batch_size": 2_560}
        # From 1 to `pool_steps` are drawn: 50 and 10 on the average.
        steps, most = (1, 1) if ipc == 1 else (99, 500) if ipc <= 10 else (19, 500)
        return short | dict(
            norm="instance", init="noise", pool_size=1, pool_steps=steps, pool_max_steps=most,
            pool_rate=1e-3, coreset_optimiser="sgd", coreset_rate=0.1, coreset_decay=1.0,
        )  # fmt: skip

    @classmethod
    def own_recipe(cls: Any, n: int) -> Any:
        """That of the authors' code: stochastic gradient descent for 300 epochs."""
        return by_descent(n, 300)


class DSA(DC):
    """DC with one random augmentation for the real and the distilled images of a class (Zhao and
    Bilen, "Dataset condensation with differentiable siamese augmentation", 2021b, equation 5).

    Settings as for DC, beginning from real images. Between steps networks are trained without
    augmentation.
    """

    augmented: bool = eqx.field(default=True, static=True)

    @classmethod
    def presets(cls: Any, dataset: str, ipc: int) -> Any:
        return super().presets(dataset, ipc) | {"init": "real"}

    @classmethod
    def own_recipe(cls: Any, n: int) -> Any:
        """As for DM."""
        return by_descent(n, 1000) | {"augment": True}


def _apart(one, other):
    """One minus the cosine of the weights of each output, which stand on the last axis, summed."""
    one, other = (g.reshape(-1, g.shape[-1]) for g in (one, other))
    lengths = jnp.sum(one**2, 0) * jnp.sum(other**2, 0)
    there = lengths > 0  # an output that nothing reaches has no direction
    cosine = jnp.sum(one * other, 0) * jax.lax.rsqrt(jnp.where(there, lengths, 1))
    return jnp.sum(jnp.where(there, 1 - cosine, 0))
