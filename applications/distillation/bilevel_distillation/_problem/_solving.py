"""How the gradient of a method with an inner problem is found: by the toolkit's solvers."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array

from bilevel import hypergradient
from bilevel.inverse_hvp import CG, SGD
from bilevel.solvers import GradientDescent

from .._running import compiled
from ._batch import Batch, Rates
from ._coreset import Coreset
from ._gradient import MetaGradient

adam = optax.adam(1.0)
CONJUGATE_GRADIENTS = 2
"""The second way: the toolkit's own steps, for all solves."""


class AbstractSolver(eqx.Module):
    """How a method's gradient is found."""

    has_rates: ClassVar[bool] = False
    """Whether it needs Adam's rates."""

    def arithmetic(self, coreset: Coreset) -> int:
        """As that of a method."""
        return 1

    @abc.abstractmethod
    def gradient(self, method: Any, coreset: Coreset, batch: Batch) -> MetaGradient:
        """The gradient of the method, which has `start`, `inner` and `outer`."""


class Adam(AbstractSolver):
    """The paper's way: a fixed number of Adam's steps in the inner problem and in the adjoint, each
    of these with a Hessian-vector product derived anew.

    Attributes:
        steps: of Adam, in each of the two.
    """

    steps: int = eqx.field(default=20, static=True)
    has_rates: ClassVar[bool] = True

    def inverse_hvp(self, rates: Rates) -> Any:
        return SGD(adam, self.steps, scale=rates.adjoint, rederive=True)

    def gradient(self, method: Any, coreset: Coreset, batch: Batch) -> MetaGradient:
        if batch.rates is None:
            raise ValueError("rates of the batch are None: give Adam's rates.")
        compute = hypergradient(
            method.outer, method.inner,
            solver=GradientDescent(adam, self.steps, scale=batch.rates.inner),
            inverse_hvp=self.inverse_hvp(batch.rates), has_aux=True, throw="ignore",
        )  # fmt: skip
        key = batch.key if method.subsamples(coreset) else None
        found = compute(
            coreset,
            _start(method, batch.network),
            outer_args=(batch.network, batch.images, batch.targets, key),
            inner_args=(batch.network,),
            key=key,
        )
        losses = {"inner": found.inner.losses, "adjoint": found.adjoint.losses}
        return MetaGradient(
            value=found.value,
            direct=found.direct if method.direct else None,
            implicit=found.implicit,
            predictions=found.aux,
            inner=found.inner,
            adjoint=found.adjoint,
            measured={
                "inner_steps": found.inner.steps,
                "adjoint_steps": found.adjoint.steps,
                "inner_gradient_norm": found.inner.gradient_norm,
                "adjoint_residual": found.adjoint.residual,
                **_courses({name: one for name, one in losses.items() if one is not None}),
            },
        )


class LinearAdjoint(Adam):
    """Adam in the inner problem, which is not quadratic, and conjugate gradients in the adjoint.

    Attributes:
        rtol: the relative residual of the adjoint at which conjugate gradients stop.
        max_steps: of them, at most.
    """

    rtol: float = eqx.field(default=1e-2, static=True)
    max_steps: int = eqx.field(default=64, static=True)

    def arithmetic(self, coreset: Coreset) -> int:
        return CONJUGATE_GRADIENTS

    def inverse_hvp(self, rates: Rates) -> Any:
        return CG(rtol=self.rtol, max_steps=self.max_steps)


@compiled
def _courses(losses: dict[str, Array]) -> dict[str, Array]:
    """Whether each loss ended lower, and whether it never rose."""
    found = {}
    for name, values in losses.items():
        found[f"{name}_descended"] = values[-1] < values[0]
        found[f"{name}_monotone"] = jnp.all(jnp.diff(values) <= 0)
    return found


@compiled
def _start(method, network):
    return method.start(network)


def direct_gradient(method: Any, coreset: Coreset, batch: Batch) -> MetaGradient:
    """The gradient of a method whose theta stays where it starts."""
    key = batch.key if method.subsamples(coreset) else None
    return _direct_only(method, coreset, batch.network, batch.images, batch.targets, key)


@compiled
def _direct_only(method, coreset, network, images, targets, key):
    def loss(coreset):
        return method.outer(method.start(network), coreset, network, images, targets, key)

    (value, predictions), grad = eqx.filter_value_and_grad(loss, has_aux=True)(coreset)
    return MetaGradient(value=value, direct=grad, predictions=predictions)
