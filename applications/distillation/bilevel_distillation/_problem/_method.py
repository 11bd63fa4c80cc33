"""What a method is."""

import abc
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, Scalar

from ..networks import AbstractNetwork
from ._batch import Batch
from ._coreset import Coreset
from ._gradient import MetaGradient
from ._losses import squared_error
from ._real import Real, Rows

OneHot = Float[Array, "n classes"]


class AbstractMethod(eqx.Module):
    """What gives the coreset a gradient.

    A method of your own is a subclass with `gradient`, which is all that it needs:

        class Matching(AbstractMethod):
            def gradient(self, coreset, batch):
                value, grad = jax.value_and_grad(self.loss)(coreset, batch)
                return MetaGradient(value=value, direct=grad)

    On an accelerator it is called inside a compiled function, on a CPU as it is, so that it does
    well to compile its parts (`equinox.filter_jit`). Given as a class, its fields are filled with
    the settings of a run that have their names (`ridge_rate`, `microbatch`, `n_subset`, ...). What
    else is here may be replaced: which real images it sees, what the pool is trained on, if at
    all, what it carries from step to step, and the settings that it wants.
    """

    takes_steps: ClassVar[bool] = True
    """Whether there is anything to iterate: a method that chooses real images takes no steps."""

    trains_pool: ClassVar[bool] = True
    """Whether networks of the pool are trained on the coreset after their use; if not, each is
    replaced by a fresh one."""

    @property
    def has_rates(self) -> bool:
        """Whether Adam's rates are to be found before the first step, and watched."""
        return False

    def arithmetic(self, coreset: Coreset) -> int:
        """Counts the ways in which versions came to the last digits of its gradient: a run goes on
        in the one that it began in, or not at all.
        """
        return 1

    @property
    def fresh_networks(self) -> int:
        """How many fresh networks each batch has, beside the one of the pool."""
        return 0

    @property
    def preparation(self) -> Mapping[str, Any] | None:
        """What `prepare` depends on beside data and network, as values that JSON knows, first the
        setting that it grows with; None: there is nothing to prepare.
        """
        return None

    @abc.abstractmethod
    def gradient(self, coreset: Coreset, batch: Batch) -> MetaGradient:
        """The derivative of what the method minimises with respect to the coreset."""

    def choose(self, real: Real, ipc: int, key: PRNGKeyArray) -> Rows | None:
        """Which real images the set begins as, `ipc` of each class, class by class; None: as the
        settings of the run have it.
        """
        return None

    def prepare(
        self, real: Real, key: PRNGKeyArray, done: Callable[[], None] = lambda: None
    ) -> Any:
        """What the method makes of the real images once, before the first step: arrays, which every
        batch has as `prepared`. They are kept in the run's folder and serve other runs of the same
        data, network and `preparation`, for which the key is the same. `done` is called after each
        of `self.parts` parts.
        """
        raise ValueError(
            f"method={type(self).__name__} names a preparation and has no `prepare`: write one, or "
            "let preparation be None."
        )

    def rehearse(self, real: Real, key: PRNGKeyArray) -> float | None:
        """Seconds that `prepare` will take, by a small part of it; None: nobody knows."""
        return None

    def prepared_like(self, network: AbstractNetwork) -> Any:
        """The shapes of what `prepare` gives, for networks like this one."""
        return None

    @property
    def parts(self) -> int:
        """In how many parts `prepare` is done."""
        return 1

    def begin(self, coreset: Coreset) -> Any:
        """What the first batch carries: arrays of the method's own, or None."""
        return None

    def rows(
        self, rng: np.random.Generator, labels: Int[np.ndarray, " samples"], size: int
    ) -> Int[np.ndarray, " batch"]:
        """Which real images make a batch, always as many; `labels` are those of all."""
        return rng.choice(len(labels), size, replace=False)

    def pool_loss(self, outputs: OneHot, labels: OneHot) -> Scalar:
        """What a network of the pool is trained on: a mean over images of the coreset."""
        return squared_error(outputs, labels)

    @classmethod
    def presets(cls, dataset: str, ipc: int) -> Mapping[str, Any]:
        """Settings of a run that the method wants where the user leaves them open."""
        return {}

    @classmethod
    def own_recipe(cls, n: int) -> Mapping[str, Any]:
        """How the method's authors train the networks that judge, on `n` distilled images: settings
        of an `EvaluationConfig` in place of the common ones, which are those of RCIG.
        """
        return {}
