from collections.abc import Callable
from typing import Any, ClassVar

import optax
from jaxtyping import PRNGKeyArray, Scalar

from .._inner import InnerLoss
from .._tree import norm
from .._types import Params, PyTree
from ._base import AbstractProblem, Shaped, check_function
from ._condition import AbstractCondition


class FixedPoint(AbstractProblem):
    """A fixed point: theta* such that `theta* = f(theta*, psi)`.

    Stands in the place of an inner loss; `bilevel.fixed_point` is `argmin` of it. It is the root of
    `theta - f(theta, psi)`, and has the derivatives of `Root`, whatever iteration found it: nothing
    of the iteration is kept in memory. `Neumann(step_size=1.0)` is the plain iteration on the
    adjoint.

    Attributes:
        f: `f(theta, psi, *inner_args)`, shaped like theta.

    Raises:
        ValueError: f is not a function, or does not return what is shaped like theta.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel import hypergradient
        >>> from bilevel.problems import FixedPoint
        >>> from bilevel.solvers import FixedPointIteration
        >>> inner = FixedPoint(lambda theta, psi: 0.5 * theta + psi)  # theta* = 2 psi
        >>> compute = hypergradient(lambda theta, psi: jnp.sum(theta**2), inner,
        ...                         solver=FixedPointIteration())
        >>> h = compute(jnp.array([1.0, 2.0]), jnp.zeros(2))
        >>> bool(jnp.allclose(h.grad, jnp.array([8.0, 16.0]), rtol=1e-4))  # 8 psi
        True
    """

    f: Callable[..., Any]
    remedy: ClassVar[str] = (
        "`FixedPointIteration()`, `Anderson()`, `Newton(Dense(), steps=10)`, `Optimistix` with a "
        "fixed-point solver or a root finder, or a function `(f, theta0) -> theta`"
    )

    def __check_init__(self) -> None:
        check_function(self.f, "f", "f(theta, psi, *args)")

    def __call__(self, theta: PyTree, psi: PyTree, *args: Any, **kwargs: Any) -> Any:
        return self.f(theta, psi, *args, **kwargs)

    def given(self, loss: Any) -> Callable[..., Any]:
        return iteration(loss)

    def over(self, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> "FixedPoint":
        return FixedPoint(change(self.f))

    def condition(self, loss: Any) -> AbstractCondition:
        return Fixed(loss)


def iteration(loss: Callable[..., Any]) -> Shaped:
    """f, whose value has the form of theta."""
    return Shaped(loss, "f", "point")


class Fixed(AbstractCondition):
    """F = theta - f(theta)."""

    loss: Any
    symmetric: ClassVar[bool] = False

    def uses_psi(self) -> bool:
        problem = self.loss.inner if isinstance(self.loss, InnerLoss) else None
        return problem.uses_psi(self.loss) if isinstance(problem, FixedPoint) else True

    def value_and_residual(self, theta: Params, key: PRNGKeyArray | None) -> tuple[Scalar, Params]:
        residual = optax.tree.sub(theta, iteration(self.loss)(theta, key))
        return norm(residual), residual
