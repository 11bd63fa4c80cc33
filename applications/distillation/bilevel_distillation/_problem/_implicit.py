"""Methods with an inner problem: a network trained on the coreset, and a loss on real images.

| method | inner network             | last layer              | outer loss    | direct gradient |
|--------|---------------------------|-------------------------|---------------|-----------------|
| VIG    | as it is                  | trained like the rest   | squared error | none            |
| CIG    | linearised, centred       | trained like the rest   | squared error | none            |
| RIG    | f(base + delta) - f(base) | closed form             | Platt         | yes             |
| RCIG   | linearised, centred       | closed form             | Platt         | yes             |
| FRePo  | delta = 0                 | closed form             | squared error | the only one    |

Inner losses are divided by n C (n after flips), as in the authors' code; the ridge is rate x n
(n before flips).
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Scalar

from bilevel import linearize, subsample_backward

from .._running import in_parts
from ..networks import AbstractNetwork
from ._batch import Batch
from ._coreset import Coreset
from ._gradient import MetaGradient
from ._method import AbstractMethod, OneHot
from ._solving import AbstractSolver, Adam, direct_gradient

Images = Float[Array, "n height width channels"]


class AbstractImplicit(AbstractMethod):
    """A bilevel problem whose psi is a `Coreset`: the network that is trained on it, and a loss.

    Attributes:
        ridge_rate: lambda / n.
        microbatch: images go through the network in parts of this size, one after the other;
            None: all at once. Outside of `jax.jit` on a CPU parts may be smaller.
        n_subset: where a key is given, derivatives go through so many distilled images, drawn anew
            each time, and are scaled so as to be unbiased; None: through all.
        solver: how the gradient is found.
    """

    ridge_rate: float = eqx.field(default=5e-4, static=True)
    microbatch: int | None = eqx.field(default=None, static=True)
    n_subset: int | None = eqx.field(default=None, static=True)
    solver: AbstractSolver = Adam()

    implicit: ClassVar[bool] = True
    """Whether there is an inner problem beyond the closed form."""
    direct: ClassVar[bool] = True
    """Whether the outer loss depends on the coreset directly."""

    @property
    def has_rates(self) -> bool:
        return self.implicit and self.solver.has_rates

    def arithmetic(self, coreset: Coreset) -> int:
        return self.solver.arithmetic(coreset) if self.implicit else 1

    def gradient(self, coreset: Coreset, batch: Batch) -> MetaGradient:
        if not self.implicit:
            return direct_gradient(self, coreset, batch)
        return self.solver.gradient(self, coreset, batch)

    @abc.abstractmethod
    def start(self, network: AbstractNetwork) -> Any:
        """theta0: where the inner problem starts."""

    @abc.abstractmethod
    def inner(
        self,
        theta: Any,
        coreset: Coreset,
        network: AbstractNetwork,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Scalar:
        """The training loss on the coreset; `key` draws the subset."""

    @abc.abstractmethod
    def outer(
        self,
        theta: Any,
        coreset: Coreset,
        network: AbstractNetwork,
        images: Images,
        targets: OneHot,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Scalar, OneHot]:
        """The loss on a batch of real images with one-hot targets, and the predictions."""

    @abc.abstractmethod
    def loss(self, predictions: OneHot, targets: OneHot, coreset: Coreset) -> Scalar:
        """The outer loss of predictions on one-hot targets, a mean over the rows."""

    def subsamples(self, coreset: Coreset) -> bool:
        """Whether derivatives go through a part of the distilled images."""
        return self.n_subset is not None and self.n_subset < coreset.rows

    def on_support(
        self, function: Callable[..., Any], theta: Any, network: Any, images: Images, key: Any
    ) -> Any:
        """`function(theta, network, images)` on the distilled images."""
        if self.n_subset is None or key is None:
            return in_parts(lambda x: function(theta, network, x), images, self.microbatch)
        part, size = self.n_subset, self.microbatch
        subsampled = subsample_backward(lambda p, x: function(*p, x), part, size)
        return subsampled((theta, network), images, key=key)

    def ridge(self, coreset: Coreset) -> float:
        return self.ridge_rate * coreset.images.shape[0]

    def per_output(self, loss: Scalar, coreset: Coreset) -> Scalar:
        """Divide by n C, n after flips."""
        return loss / (coreset.rows * coreset.labels.shape[1])


class AbstractLinearized(AbstractImplicit):
    """CIG and RCIG: the inner model is linear in theta, so that the inner loss is quadratic."""

    closed_form: ClassVar[bool] = False
    """Whether the last layer is solved in closed form."""

    @abc.abstractmethod
    def moving(self, network: AbstractNetwork) -> Any:
        """Which arrays of the network theta moves."""

    def start(self, network: AbstractNetwork) -> Any:
        return linearize(network, filter_spec=self.moving(network)).tangent


def sum_of_squares(tree: PyTree[Array]) -> Scalar:
    return optax.tree.norm(tree, squared=True)
