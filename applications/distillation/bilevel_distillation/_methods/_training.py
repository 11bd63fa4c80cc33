"""Networks in training on real images."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from .._problem import Real, cross_entropy
from .._running import compiled
from ..data import augment_alike
from ..networks import AbstractNetwork, is_parameter, refresh_statistics

SIZE = 256


def by_descent(n: int, epochs: int) -> dict[str, Any]:
    """A recipe for networks that judge, on `n` images: gradient descent at 0.01 with momentum on
    the cross-entropy, as in the code of DC, DSA, DM and MTT.
    """
    steps = epochs * -(-n // SIZE)
    return dict(
        optimiser="sgd", loss="cross-entropy", learning_rate=1e-2, steps=steps, batch_size=SIZE
    )


class Learner(eqx.Module):
    """A network and the state of its optimiser."""

    network: AbstractNetwork
    state: Any

    @staticmethod
    def make(real: Real, optimiser: optax.GradientTransformation, key: PRNGKeyArray) -> "Learner":
        return _begin(real.make_network, optimiser, key)

    def epoch(
        self,
        optimiser: optax.GradientTransformation,
        real: Real,
        size: int,
        rng: np.random.Generator,
        key: PRNGKeyArray | None = None,
        most: int | None = None,
    ) -> "Learner":
        """After a step on the cross-entropy of each batch of `size` random images, until all have
        been seen once, or after `most` steps; with a key images are augmented, all of a batch
        alike.
        """
        learner, order = self, rng.permutation(len(real.labels))
        size = min(size, len(order))
        for step in range(min(len(order) // size, most or len(order))):
            images, targets = real.batch(order[step * size : (step + 1) * size])
            learner = _step(learner, optimiser, images, targets, key, np.int32(step))
        return learner


def judged(network: AbstractNetwork, images: Float[Array, "n height width channels"]) -> Any:
    """Features and outputs."""
    return _outputs(network, images)


@compiled
def _begin(make_network, optimiser, key) -> Learner:
    network = eqx.nn.inference_mode(make_network(key))
    return Learner(network, optimiser.init(eqx.filter(network, is_parameter(network))))


@compiled
def _step(learner: Learner, optimiser, images, targets, key, step) -> Learner:
    if key is not None:
        images = augment_alike(images, jax.random.fold_in(key, step))
    network = refresh_statistics(learner.network, images)
    weights, rest = eqx.partition(network, is_parameter(network))

    def loss(weights):
        return cross_entropy(eqx.combine(weights, rest)(images), targets)

    updates, state = optimiser.update(jax.grad(loss)(weights), learner.state)
    return Learner(eqx.combine(eqx.apply_updates(weights, updates), rest), state)


@compiled
def _outputs(network: AbstractNetwork, images):
    return network.features_and_outputs(images)
