"""The five methods: what the inner problem is, and what the outer loss is.

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
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Scalar

from bilevel import RidgeHead, linearize, reparameterize_last_layer, subsample_backward

from .._running import in_parts
from ..networks import AbstractNetwork, is_body, is_parameter
from ._coreset import Coreset
from ._losses import label_margin, platt_loss, squared_error

Images = Float[Array, "n height width channels"]
OneHot = Float[Array, "n classes"]


class AbstractMethod(eqx.Module):
    """A bilevel problem whose psi is a `Coreset`.

    Attributes:
        ridge_rate: lambda / n.
        flip: whether the coreset is doubled by its mirror images.
        microbatch: images go through the network in parts of this size, one after the other;
            None: all at once. Outside of `jax.jit` on a CPU parts may be smaller.
        subset: where a key is given, derivatives go through so many distilled images, drawn anew
            each time, and are scaled so as to be unbiased; None: through all.
    """

    ridge_rate: float = eqx.field(default=5e-4, static=True)
    flip: bool = eqx.field(default=False, static=True)
    microbatch: int | None = eqx.field(default=None, static=True)
    subset: int | None = eqx.field(default=None, static=True)

    implicit: ClassVar[bool] = True
    """Whether there is an inner problem beyond the closed form."""
    direct: ClassVar[bool] = True
    """Whether the outer loss depends on the coreset directly."""

    @abc.abstractmethod
    def start(self, network: AbstractNetwork) -> PyTree[Array]:
        """theta0: where the inner problem starts."""

    @abc.abstractmethod
    def inner(
        self,
        theta: PyTree[Array],
        coreset: Coreset,
        network: AbstractNetwork,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Scalar:
        """The training loss on the coreset; `key` draws the subset."""

    @abc.abstractmethod
    def outer(
        self,
        theta: PyTree[Array],
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
        rows = coreset.images.shape[0] * (2 if self.flip else 1)
        return self.subset is not None and self.subset < rows

    def on_support(self, function: Callable, theta, network, images: Images, key) -> Any:
        """`function(theta, network, images)` on the distilled images."""
        if self.subset is None or key is None:
            return in_parts(lambda x: function(theta, network, x), images, self.microbatch)
        subsampled = subsample_backward(lambda p, x: function(*p, x), self.subset, self.microbatch)
        return subsampled((theta, network), images, key=key)

    def ridge(self, coreset: Coreset) -> float:
        return self.ridge_rate * coreset.images.shape[0]

    def per_output(self, loss: Scalar, coreset: Coreset) -> Scalar:
        """Divide by n C, n after flips."""
        n, classes = coreset.labels.shape
        return loss / (n * classes * (2 if self.flip else 1))


class AbstractFullyTrained(AbstractMethod):
    """VIG and CIG: all layers are trained, and the outer loss is the squared error."""

    direct = False

    @abc.abstractmethod
    def predict(self, theta: PyTree[Array], network: AbstractNetwork, images: Images) -> OneHot:
        """The inner problem's model."""

    def inner(self, theta, coreset, network, *, key=None):
        images, labels = coreset.support(self.flip)
        error = self.on_support(self.predict, theta, network, images, key) - labels
        loss = 0.5 * jnp.sum(error**2) + 0.5 * self.ridge(coreset) * sum_of_squares(theta)
        return self.per_output(loss, coreset)

    def outer(self, theta, coreset, network, images, targets, key=None):
        predictions = in_parts(lambda x: self.predict(theta, network, x), images, self.microbatch)
        return self.loss(predictions, targets, coreset), predictions

    def loss(self, predictions, targets, coreset):
        return squared_error(predictions, targets - 1 / targets.shape[1])


class VIG(AbstractFullyTrained):
    """Vanilla implicit gradients (RCIG paper, section 3.1). theta: all parameters."""

    def start(self, network):
        return eqx.filter(network, is_parameter(network))

    def predict(self, theta, network, images):
        return eqx.combine(theta, network)(images)


class AbstractLinearized(AbstractMethod):
    """CIG and RCIG: the inner model is linear in theta, so that the inner loss is quadratic."""

    closed_form: ClassVar[bool] = False
    """Whether the last layer is solved in closed form."""

    @abc.abstractmethod
    def moving(self, network: AbstractNetwork) -> PyTree[bool]:
        """Which arrays of the network theta moves."""

    def start(self, network):
        return linearize(network, filter_spec=self.moving(network)).tangent


class CIG(AbstractFullyTrained, AbstractLinearized):
    """Convexified implicit gradients (section 3.2). theta: the tangent of all parameters."""

    def moving(self, network):
        return is_parameter(network)

    def predict(self, theta, network, images):
        return linearize(network, filter_spec=self.moving(network)).at(theta)(images)


class AbstractReparameterized(AbstractMethod):
    """RIG, RCIG and FRePo: theta moves the body, the last layer is solved in closed form.

    With h the last hidden layer of the frozen base, u(theta, x) what theta adds to the outputs,
    and W* the ridge head of h on `y - u` (equations 3 and 4), predictions are `u + h W*`.

    Attributes:
        margin: whether the label margin term of the authors' code is in the outer loss.
    """

    margin: bool = eqx.field(default=True, static=True)

    @abc.abstractmethod
    def features_and_offset(
        self, theta: PyTree[Array], network: AbstractNetwork, images: Images
    ) -> tuple[Float[Array, "n features"], OneHot]:
        """h(x) and u(theta, x)."""

    def inner(self, theta, coreset, network, *, key=None):
        return self._reduced(self._inner, coreset, key)(theta, coreset, network)

    def outer(self, theta, coreset, network, images, targets, key=None):
        reduced = self._reduced(self._outer, coreset, key)
        return reduced(theta, coreset, network, images, targets)

    def _reduced(self, loss, coreset, key):
        def last_layer(theta, coreset, network, *batch):
            images, labels = coreset.support(self.flip)
            features, offset = self.on_support(
                self.features_and_offset, theta, network, images, key
            )
            return features, labels - offset

        return reparameterize_last_layer(loss, last_layer, self.ridge(coreset))

    def _inner(self, theta, head: RidgeHead, coreset, network):
        loss = head.objective() + 0.5 * self.ridge(coreset) * sum_of_squares(theta)
        return self.per_output(loss, coreset)

    def _outer(self, theta, head: RidgeHead, coreset, network, images, targets):
        features, offset = in_parts(
            lambda x: self.features_and_offset(theta, network, x), images, self.microbatch
        )
        predictions = offset + head(features)
        return self.loss(predictions, targets, coreset), predictions

    def loss(self, predictions: OneHot, targets: OneHot, coreset: Coreset) -> Scalar:
        value = platt_loss(predictions, targets, coreset.log_temperature)
        return value - label_margin(coreset.labels) if self.margin else value


class RIG(AbstractReparameterized):
    """Reparameterised implicit gradients (section 3.3 without 3.2): u = f(base + theta) - f(base),
    f with the last layer of the base.
    """

    def start(self, network):
        return linearize(network, filter_spec=is_body(network)).tangent

    def features_and_offset(self, theta, network, images):
        features, outputs = network.features_and_outputs(images)
        return features, eqx.apply_updates(network, theta)(images) - outputs


class RCIG(AbstractReparameterized, AbstractLinearized):
    """Reparameterised convexified implicit gradients (section 3.3): u = J(base) theta."""

    closed_form = True

    def moving(self, network):
        return is_body(network)

    def features_and_offset(self, theta, network, images):
        linear = linearize(network, filter_spec=is_body(network)).at(theta)
        (features, _), (_, offset) = linear.value_and_tangent(
            lambda net, x: net.features_and_outputs(x), images
        )
        return features, offset


class FRePo(AbstractReparameterized):
    """Neural feature regression (Zhou et al., 2022): RCIG with the body frozen, u = 0.

    Attributes:
        platt: the Platt loss instead of the squared error.
    """

    platt: bool = eqx.field(default=False, static=True)
    implicit = False

    def start(self, network):
        return jax.tree.map(lambda leaf: None, network)

    def features_and_offset(self, theta, network, images):
        features, outputs = network.features_and_outputs(images)
        return features, jnp.zeros_like(outputs)

    def loss(self, predictions, targets, coreset):
        if self.platt:
            return super().loss(predictions, targets, coreset)
        return squared_error(predictions, targets - 1 / targets.shape[1])


def sum_of_squares(tree: PyTree[Array]) -> Scalar:
    return optax.tree.norm(tree, squared=True)


METHODS: dict[str, type[AbstractMethod]] = {
    "vig": VIG,
    "cig": CIG,
    "rig": RIG,
    "rcig": RCIG,
    "frepo": FRePo,
}


def make_method(
    name: str,
    *,
    ridge_rate: float = 5e-4,
    flip: bool = False,
    microbatch: int | None = None,
    subset: int | None = None,
) -> AbstractMethod:
    """The method of that name.

    Raises:
        ValueError: an unknown name.
    """
    if name not in METHODS:
        raise ValueError(f"method={name!r} is not known: choose one of {', '.join(METHODS)}.")
    return METHODS[name](ridge_rate, flip, microbatch, subset)
