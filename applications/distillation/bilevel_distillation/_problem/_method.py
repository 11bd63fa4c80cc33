"""What a method is."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int, Scalar

from ._batch import Batch
from ._coreset import Coreset
from ._gradient import MetaGradient
from ._losses import squared_error

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

    trains_pool: ClassVar[bool] = True
    """Whether networks of the pool are trained on the coreset after their use; if not, each is
    replaced by a fresh one."""

    @property
    def has_rates(self) -> bool:
        """Whether Adam's rates are to be found before the first step, and watched."""
        return False

    @abc.abstractmethod
    def gradient(self, coreset: Coreset, batch: Batch) -> MetaGradient:
        """The derivative of what the method minimises with respect to the coreset."""

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
