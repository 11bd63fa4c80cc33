"""MTT: training on the distilled images is to lead where training on real ones does."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from bilevel import unrolled_value_and_grad
from bilevel.solvers import GradientDescent

from .._problem import Batch, Coreset, MetaGradient
from .._running import compiled
from ..data import augment_alike
from ..networks import is_parameter
from ._experts import AbstractExperts
from ._inner import training_loss
from ._training import by_descent

_sgd = optax.sgd(1.0)
RATE_OF_RATE = 1e-2
"""The logarithm of the learned rate moves by its derivative times this, by this at most."""


class MTT(AbstractExperts):
    """Matching training trajectories (Cazenavette et al., "Dataset distillation by matching
    training trajectories", 2022, equation 2 and algorithm 1).

    Networks are trained on the real images once, and their parameters kept after each epoch:
    p_0, p_1, ... From a random p_s of one of them, s up to `start_epochs`, a network is trained on
    the distilled images by `inner_steps` of gradient descent, to q. What is minimised is

        | q - p_(s + match_epochs) |^2 / | p_s - p_(s + match_epochs) |^2 ,

    in the images and in the rate of the descent, which is carried from step to step. The labels
    stay what they began as. Each step augments all images alike, and so do those on real images.

    Settings are those of the authors' code for CIFAR-10 (50 steps for 1 image per class, else 30,
    2 epochs to match, a start of up to 2, 20 and 40; experts by gradient descent at 0.01 in batches
    of 256, instance normalisation), but for 20 trajectories, theirs being 100 or more, and for the
    images' optimiser: theirs is gradient descent with a rate that is found for each data set.

    Attributes:
        inner_steps: as above; so are `trajectories`, `start_epochs` and `match_epochs`.
        inner_rate: the rate of the descent at the start.
        remat: keep few iterates of the descent, and no activations between them: more time.
        augmented: whether images are changed.
    """

    inner_steps: int = eqx.field(default=30, static=True)
    inner_rate: float = eqx.field(default=1e-2, static=True)
    remat: bool = eqx.field(default=False, static=True)
    augmented: bool = eqx.field(default=True, static=True)

    trains_pool = False

    def begin(self, coreset: Coreset) -> Scalar:
        """The logarithm of the rate."""
        return jnp.log(jnp.asarray(self.inner_rate, coreset.images.dtype))

    def inner(
        self, weights: Any, psi: tuple[Coreset, Scalar], rest: Any, *, key: PRNGKeyArray
    ) -> Scalar:
        """The loss of a training step, times the rate."""
        coreset, log_rate = psi
        images = coreset.support()[0]
        images = augment_alike(images, key) if self.augmented else images
        return jnp.exp(log_rate) * training_loss(weights, rest, images, coreset)

    def outer(
        self, weights: Any, psi: Any, first: Float[Array, " p"], last: Float[Array, " p"]
    ) -> Scalar:
        """How much of the way from the first to the last parameters is missing, squared."""
        return jnp.sum((ravel_pytree(weights)[0] - last) ** 2) / jnp.sum((first - last) ** 2)

    def gradient(self, coreset: Coreset, batch: Batch) -> MetaGradient:
        value, (grad, to_rate) = self.through_training(coreset, batch)
        log_rate = batch.carried - RATE_OF_RATE * jnp.clip(to_rate, -1, 1)
        measured = {"inner_rate": jnp.exp(batch.carried)}
        return MetaGradient(value=value, direct=grad, carried=log_rate, measured=measured)

    def through_training(self, coreset: Coreset, batch: Batch) -> Any:
        """The value, and its derivatives in the coreset and the logarithm of the rate."""
        if batch.key is None or batch.prepared is None:
            raise ValueError("the batch has no key or no trajectories to draw of: give both.")
        key, first, last = self.draw(batch.key, batch.prepared)
        weights, rest = eqx.partition(batch.network, is_parameter(batch.network))
        compute = unrolled_value_and_grad(
            self.outer, self.inner, solver=GradientDescent(_sgd, self.inner_steps),
            remat=5 if self.remat else None, throw="ignore",
        )  # fmt: skip
        return compute(
            (coreset, batch.carried), _at(weights, first), outer_args=(first, last),
            inner_args=(rest,), key=key,
        )  # fmt: skip

    @classmethod
    def presets(cls: Any, dataset: str, ipc: int) -> Any:
        usual = dict(norm="instance", pool_size=1, inner_rate=1e-2, coreset_decay=1.0)
        if dataset == "digits":
            return usual | dict(
                trajectories=5, start_epochs=6, match_epochs=2, inner_steps=20, coreset_rate=1e-2
            )
        start = 2 if ipc == 1 else 20 if ipc <= 10 else 40
        return usual | dict(
            iterations=5_000, trajectories=20, start_epochs=start, match_epochs=2,
            inner_steps=50 if ipc == 1 else 30, coreset_rate=1e-2,
        )  # fmt: skip

    @classmethod
    def own_recipe(cls: Any, n: int) -> Any:
        """That of DSA, as in the authors' code, where the rate is the learned one."""
        return by_descent(n, 1000) | {"augment": True}


@compiled
def _at(weights, vector):
    return ravel_pytree(weights)[1](vector)
