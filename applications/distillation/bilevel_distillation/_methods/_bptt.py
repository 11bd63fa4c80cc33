"""BPTT: backpropagation through a random window of training."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, Scalar

from bilevel import unrolled_value_and_grad
from bilevel.solvers import GradientDescent

from .._problem import AbstractMethod, Batch, Coreset, MetaGradient, cross_entropy
from .._running import compiled
from ..data import augment_alike
from ..networks import is_parameter
from ._inner import ADAM, clipped, training_loss


class BPTT(AbstractMethod):
    """Truncated backpropagation through training, with a random window (Feng, Vedantam and Kempe,
    "Embarrassingly simple dataset distillation", 2024, section 3: RaT-BPTT).

    A fresh network is trained on the distilled images, whose labels stay as they were, by N steps
    of Adam on the cross-entropy; the next `window` steps are differentiated, and what is minimised
    is the cross-entropy on real images after them. N is random, 0 to `inner_steps - window`. In
    each step the images are mirrored or turned (gray ones turned), all alike, as the real ones are.
    The images' gradient is clipped at twice a moving average of its norm. Settings are the paper's
    for CIFAR-10 with 10 images per class; for digits small ones.

    Attributes:
        inner_steps: the most steps of training.
        window: those of them that are differentiated.
        inner_rate: Adam's rate in them.
        remat: keep few iterates of the window, and no activations between them: more time.
        augmented: whether images are changed.
    """

    inner_steps: int = eqx.field(default=200, static=True)
    window: int = eqx.field(default=60, static=True)
    inner_rate: float = eqx.field(default=1e-3, static=True)
    remat: bool = eqx.field(default=False, static=True)
    augmented: bool = eqx.field(default=True, static=True)

    trains_pool = False

    def __check_init__(self) -> None:
        if self.window > self.inner_steps:
            raise ValueError(
                f"window={self.window} is longer than inner_steps={self.inner_steps}: give at most "
                f"--window {self.inner_steps}."
            )

    def begin(self, coreset: Coreset) -> Scalar:
        return jnp.zeros((), coreset.images.dtype)

    def inner(self, weights: Any, coreset: Coreset, rest: Any, *, key: PRNGKeyArray) -> Scalar:
        """The loss of a training step on the distilled images."""
        images = self.changed(coreset.support()[0], key)
        return training_loss(weights, rest, images, coreset)

    def outer(
        self,
        weights: Any,
        coreset: Coreset,
        rest: Any,
        images: Array,
        targets: Array,
        key: PRNGKeyArray,
    ) -> Any:
        predictions = eqx.combine(weights, rest)(self.changed(images, key))
        return cross_entropy(predictions, targets), predictions

    def changed(self, images: Array, key: PRNGKeyArray) -> Any:
        if not self.augmented:
            return images
        return augment_alike(images, key, ["flip"] * (images.shape[3] == 3) + ["rotate"])

    def gradient(self, coreset: Coreset, batch: Batch) -> MetaGradient:
        (value, predictions), grad = self.through_the_window(coreset, batch)
        grad, carried, share = clipped(grad, batch.carried)
        return MetaGradient(
            value=value, direct=grad, predictions=predictions, carried=carried,
            measured={"clipped_to": share},
        )  # fmt: skip

    def through_the_window(self, coreset: Coreset, batch: Batch) -> Any:
        """`((value, predictions), gradient)`, not clipped."""
        if batch.key is None:
            raise ValueError("key of the batch is None, and bptt draws its window: give a key.")
        steps, outer, start = _keys(batch.key, self.inner_steps - self.window + 1)
        remat = max(1, math.isqrt(self.window)) if self.remat else None
        solver = GradientDescent(ADAM, self.inner_steps, scale=self.inner_rate)
        compute = unrolled_value_and_grad(
            self.outer, self.inner, solver=solver, window=self.window, start=start, remat=remat,
            has_aux=True, throw="ignore",
        )  # fmt: skip
        weights, rest = eqx.partition(batch.network, is_parameter(batch.network))
        args = (rest, batch.images, batch.targets, outer)
        return compute(coreset, weights, outer_args=args, inner_args=(rest,), key=steps)

    @classmethod
    def presets(cls: Any, dataset: str, ipc: int) -> Any:
        usual = dict(pool_size=1, coreset_optimiser="adam", coreset_decay=1.0, inner_rate=1e-3)
        if dataset == "digits":
            return usual | dict(coreset_rate=1e-2, inner_steps=60, window=20)
        return usual | dict(init="noise", coreset_rate=1e-3, inner_steps=200, window=60)

    @classmethod
    def own_recipe(cls: Any, n: int) -> Any:
        """The training that it unrolls: Adam at 1e-3 on the cross-entropy, augmented."""
        return dict(loss="cross-entropy", learning_rate=1e-3, warmup=0, augment=True)


@compiled
def _keys(key: PRNGKeyArray, starts: int) -> tuple[PRNGKeyArray, PRNGKeyArray, Array]:
    """For the training steps and the outer loss, and the first step of the window."""
    steps, outer, start = jax.random.split(key, 3)
    return steps, outer, jax.random.randint(start, (), 0, starts)
