"""DM: the mean features of a class."""

import equinox as eqx
import jax.numpy as jnp

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

    def statistic(self, network, images, targets):
        return jnp.mean(network.features(images), axis=0)

    def distance(self, real, distilled):
        return jnp.sum((real - distilled) ** 2)

    @classmethod
    def presets(cls, dataset, ipc):
        short = {} if dataset == "digits" else {"iterations": 20_000, "batch_size": 2_560}
        return short | dict(
            norm="instance", pool_size=1, coreset_optimiser="sgd", coreset_rate=1.0,
            coreset_decay=1.0,
        )  # fmt: skip
