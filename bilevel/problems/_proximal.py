"""The minimum of a loss and a term that is given by its proximal operator."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray, Scalar

from .._inner import InnerLoss, Params
from .._mistakes import call
from .._tree import check_form
from ._condition import AbstractCondition
from ._stationary import Stationary


class Proximal(AbstractCondition):
    """F = (theta - prox(theta - s d loss / d theta)) / s, with s the step size.

    It is the gradient where the proximal operator does nothing. Its Jacobian is not symmetric.
    """

    loss: Any
    prox: Callable[..., Any]
    step_size: Scalar
    symmetric: ClassVar[bool] = False
    measure: ClassVar[str] = "gradient"

    def value_and_residual(self, theta: Params, key: PRNGKeyArray | None) -> tuple[Scalar, Params]:
        value, gradient = Stationary(self.loss).value_and_residual(theta, key)
        after = proximal_step(self.loss, self.prox, self.step_size, theta, gradient)
        return value, jax.tree.map(
            lambda t, a: (t - a) / self.step_size.astype(t.dtype), theta, after
        )


def proximal_step(
    loss: Callable[..., Any],
    prox: Callable[..., Any],
    step_size: Scalar,
    theta: Params,
    gradient: Params,
) -> Params:
    """`prox(theta - step_size gradient, psi, step_size)`."""
    moved = jax.tree.map(lambda t, g: t - step_size.astype(t.dtype) * g, theta, gradient)
    psi = loss.psi if isinstance(loss, InnerLoss) else None
    whole = eqx.combine(moved, loss.theta_static) if isinstance(loss, InnerLoss) else moved
    after = eqx.filter(
        call(prox, "prox(theta, psi, step_size)", whole, psi, step_size), eqx.is_inexact_array
    )
    check_form(after, theta, "prox returned", "theta", "theta0")
    return after
