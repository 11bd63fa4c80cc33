"""Random images, herding, k-centre, EL2N: what distilled images are to be better than."""

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from .._problem import Real, Rows, choose_per_class
from ._choice import AbstractChoice, Features


class Random(AbstractChoice):
    """Random images of each class."""

    def choose(self, real: Real, ipc: int, key: PRNGKeyArray) -> Rows:
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        return choose_per_class(real.labels, real.classes, ipc, rng)

    def pick(self, features: Features, errors: Float[np.ndarray, " n"], count: int) -> Rows:
        return np.arange(count)


class Herding(AbstractChoice):
    """Images whose mean features follow those of their class (Welling, "Herding dynamical weights
    to learn", 2009; Rebuffi et al., iCaRL, 2017, algorithm 4): one after the other, each the one
    that brings the mean of those chosen nearest to the mean of all.
    """

    def pick(self, features: Features, errors: Float[np.ndarray, " n"], count: int) -> Rows:
        mean, total = features.mean(0), np.zeros(features.shape[1])
        chosen: list[int] = []
        for k in range(count):
            gaps = np.linalg.norm(mean - (total + features) / (k + 1), axis=1)
            gaps[chosen] = np.inf
            chosen.append(int(gaps.argmin()))
            total = total + features[chosen[-1]]
        return np.array(chosen)


class KCenter(AbstractChoice):
    """Images that leave none of their class far away (Sener and Savarese, "Active learning for
    convolutional neural networks: a core-set approach", 2018, algorithm 1): first the one nearest
    to the mean features, then each time the one that is farthest from all chosen.
    """

    def pick(self, features: Features, errors: Float[np.ndarray, " n"], count: int) -> Rows:
        chosen = [int(np.linalg.norm(features - features.mean(0), axis=1).argmin())]
        nearest = np.full(len(features), np.inf)
        while len(chosen) < count:
            gaps = np.linalg.norm(features - features[chosen[-1]], axis=1)
            nearest = np.minimum(nearest, gaps)
            nearest[chosen] = -np.inf
            chosen.append(int(nearest.argmax()))
        return np.array(chosen)


class EL2N(AbstractChoice):
    """The images with the smallest error early in training, |softmax - label| (Paul, Ganguli and
    Dziugaite, "Deep learning on a data diet", 2021, definition 2.2). Where few images are kept the
    easy ones are the better (Sorscher et al., "Beyond neural scaling laws", 2022, section 3).
    """

    def pick(self, features: Features, errors: Float[np.ndarray, " n"], count: int) -> Rows:
        return np.argsort(errors, kind="stable")[:count]
