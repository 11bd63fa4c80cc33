"""Real images that are chosen by what a network makes of them."""

import abc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, PRNGKeyArray

from .._problem import AbstractMethod, Batch, Coreset, MetaGradient, Real, Rows
from ._training import Learner, judged

MOST_LOOKED_AT = 1000
"""Random images of a class from which some are chosen."""

STEPS, SIZE = 200, 128
"""Training steps of the network by whose eyes they are chosen, and images in each."""

_adam = optax.adam(1e-3)

Features = Float[np.ndarray, "n features"]


class AbstractChoice(AbstractMethod):
    """A method that takes some of the real images, as many of each class, and no steps.

    They are chosen by what a network (no wider than 32 channels, trained for a short time on all
    of them) makes of up to 1,000 random images of each class.
    """

    takes_steps = False

    @abc.abstractmethod
    def pick(self, features: Features, errors: Float[np.ndarray, " n"], count: int) -> Rows:
        """Which `count` of n images of one class, by their features and errors, the lengths of
        softmax minus label.
        """

    def choose(self, real: Real, ipc: int, key: PRNGKeyArray) -> Any:
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        learner = Learner.make(real, _adam, key)
        left = STEPS
        while left > 0:
            most = max(1, len(real.labels) // SIZE)
            learner = learner.epoch(_adam, real, SIZE, rng, most=min(left, most))
            left -= most
        chosen = []
        for label in range(real.classes):
            rows = rng.permutation(np.flatnonzero(real.labels == label))[:MOST_LOOKED_AT]
            features, errors = _seen(learner, real, rows)
            chosen.append(rows[self.pick(features, errors, ipc)])
        return np.concatenate(chosen)

    def gradient(self, coreset: Coreset, batch: Batch) -> MetaGradient:
        raise ValueError(f"method={type(self).__name__} chooses images: it has no gradient.")

    @classmethod
    def presets(cls: Any, dataset: str, ipc: int) -> Any:
        return dict(iterations=0, coreset_decay=1.0, pool_size=1)


def _seen(learner: Learner, real: Real, rows: Rows):
    """Features and errors of some images, a few at a time."""
    features, errors = [], []
    for start in range(0, len(rows), 250):
        images, targets = real.batch(rows[start : start + 250])
        h, outputs = judged(learner.network, images)
        gaps = jax.nn.softmax(outputs) - targets
        features.append(np.asarray(h, np.float64))
        errors.append(np.asarray(jnp.linalg.norm(gaps, axis=1)))
    return np.concatenate(features), np.concatenate(errors)
