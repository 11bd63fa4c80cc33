"""Trajectories: the parameters of networks in training on the real images."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from .._problem import AbstractMethod, Real
from .._running import compiled
from ..networks import AbstractNetwork, is_parameter
from ._training import Learner

Trajectories = Float[Array, "trajectories epochs parameters"]

SIZE = 256
TRIED = 5
"""Training steps by which the time of all is told."""

_sgd = optax.sgd(1e-2)


class AbstractExperts(AbstractMethod):
    """A method that is prepared by such trajectories.

    Attributes:
        trajectories: how many.
        start_epochs: a stretch of them begins at most so many epochs after their start,
        match_epochs: and is so many epochs long.
    """

    trajectories: int = eqx.field(default=20, static=True)
    start_epochs: int = eqx.field(default=20, static=True)
    match_epochs: int = eqx.field(default=2, static=True)

    @property
    def epochs(self) -> int:
        """Of each network's training."""
        return self.start_epochs + self.match_epochs

    @property
    def preparation(self) -> Mapping[str, Any] | None:
        return {"trajectories": self.trajectories, "epochs": self.epochs}

    @property
    def parts(self) -> int:
        return self.trajectories

    def prepare(self, real: Any, key: PRNGKeyArray, done: Any = lambda: None) -> Any:
        return train_experts(real, self.trajectories, self.epochs, key, done)

    def rehearse(self, real: Real, key: PRNGKeyArray) -> float:
        """By a few training steps, which compile first."""
        learner, rng = Learner.make(real, _sgd, key), np.random.default_rng(0)
        size = min(SIZE, len(real.labels))
        learner = learner.epoch(_sgd, real, SIZE, rng, key, most=1)
        _flat(learner)
        most = min(TRIED, len(real.labels) // size)
        began = time.monotonic()
        _flat(learner.epoch(_sgd, real, SIZE, rng, key, most=most))
        each = (time.monotonic() - began) / most
        return self.trajectories * self.epochs * (len(real.labels) // size) * each

    def prepared_like(self, network: AbstractNetwork) -> Any:
        flat = eqx.filter_eval_shape(_vector, network)
        shape = (self.trajectories, self.epochs + 1, *flat.shape)
        return jax.ShapeDtypeStruct(shape, flat.dtype)

    @compiled
    def draw(self, key: PRNGKeyArray, prepared: Trajectories) -> Any:
        """A key for training, parameters to begin it at, and those that it is to reach."""
        steps, one, other = jax.random.split(key, 3)
        of = prepared[jax.random.randint(one, (), 0, prepared.shape[0])]
        start = jax.random.randint(other, (), 0, prepared.shape[1] - self.match_epochs)
        return steps, of[start], of[start + self.match_epochs]


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


def _vector(network: AbstractNetwork) -> Float[Array, " parameters"]:
    return ravel_pytree(eqx.filter(network, is_parameter(network)))[0]


def _flat(learner: Learner) -> np.ndarray:
    return np.asarray(_vector(learner.network))
