"""Trajectories: the parameters of networks in training on the real images."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from .._problem import Real
from ._training import Learner

Trajectories = Float[Array, "trajectories epochs parameters"]

SIZE = 256
_sgd = optax.sgd(1e-2)


def train_experts(
    real: Real, count: int, epochs: int, key: PRNGKeyArray, done: Callable[[], None]
) -> Trajectories:
    """The parameters of `count` fresh networks at their beginning and after each epoch on the real
    images, by gradient descent at 0.01 in augmented batches of 256; `done` is called after each.
    """
    found = []
    for i in range(count):
        own, rng = jax.random.fold_in(key, i), np.random.default_rng(i)
        learner = Learner.make(real, _sgd, own)
        kept = [_flat(learner)]
        for epoch in range(epochs):
            changing = jax.random.fold_in(own, epoch + 1)
            learner = learner.epoch(_sgd, real, SIZE, rng, changing)
            kept.append(_flat(learner))
        found.append(np.stack(kept))
        done()
    return jnp.asarray(np.stack(found))


def _flat(learner: Learner) -> np.ndarray:
    return np.asarray(ravel_pytree(learner.weights)[0])
