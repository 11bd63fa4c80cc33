"""DM: the mean features of a class."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from ..networks import AbstractNetwork
from ._matching import AbstractMatching


class DM(AbstractMatching):
    """Distribution matching (Zhao and Bilen, "Dataset condensation with distribution matching",
    2021a, equation 4), under a fresh random network in each step:

        sum_c | mean of h(real images of c) - mean of h(distilled images of c) |^2 ,

    h the last hidden layer, real and distilled images augmented alike (DSA).

    Settings are those of the authors' code: 256 real images of each of ten classes, stochastic
    gradient descent with momentum 0.5 at rate 1 for 20,000 steps, instance normalisation. That
    rate is for the sum of squares of some 2,000 features; ours are more, and the steps larger.
    """

    augmented: bool = eqx.field(default=True, static=True)

    trains_pool = False

    def statistic(self, network: AbstractNetwork, images: Array, targets: Array) -> Any:
        return jnp.mean(network.features(images), axis=0)

    def distance(self, real: Any, distilled: Any) -> Any:
        return jnp.sum((real - distilled) ** 2)

    @classmethod
    def presets(cls: Any, dataset: str, ipc: int) -> Any:
        short = {} if dataset == "digits" else {"iterations": 20_000, "batch_size": 2_560}
        return short | dict(
            norm="instance", pool_size=1, coreset_optimiser="sgd", coreset_rate=1.0,
            coreset_decay=1.0,
        )  # fmt: skip
