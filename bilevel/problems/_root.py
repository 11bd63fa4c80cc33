from collections.abc import Callable
from typing import Any, ClassVar

from jaxtyping import PRNGKeyArray, Scalar

from .._tree import norm
from .._types import Params, PyTree
from ._base import AbstractProblem, Shaped, check_function
from ._condition import AbstractCondition


class Root(AbstractProblem):
    """A root: theta* such that `F(theta*, psi) = 0`.

    Stands in the place of an inner loss; `bilevel.root` is `argmin` of it. With J the Jacobian of
    F in theta, which need not be symmetric, a cotangent c of theta* gives psi the gradient

        -d/d psi <F(theta*, psi), v>        where        J^T v = c

    A linear solve that wants a symmetric operator, as `CG` does, is handed its normal equations;
    `Dense`, and `Lineax` with GMRES or BiCGStab, take it as it is.

    Attributes:
        F: `F(theta, psi, *inner_args)`, shaped like theta: as many equations as unknowns.

    Raises:
        ValueError: F is not a function, or does not return what is shaped like theta.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel import hypergradient
        >>> from bilevel.inverse_hvp import Dense
        >>> from bilevel.problems import Root
        >>> from bilevel.solvers import Newton
        >>> square_root = Root(lambda theta, psi: theta**2 - psi)
        >>> newton = Newton(Dense(), steps=6)
        >>> h = hypergradient(lambda theta, psi: jnp.sum(theta), square_root, solver=newton,
        ...                   inverse_hvp=Dense())(jnp.array([4.0, 9.0]), jnp.ones(2))
        >>> bool(jnp.allclose(h.theta, jnp.array([2.0, 3.0])))
        True
        >>> bool(jnp.allclose(h.grad, 1 / (2 * h.theta)))
        True
    """

    F: Callable[..., Any]
    remedy: ClassVar[str] = (
        "`Newton(Dense(), steps=10)`, `Optimistix` with a root finder, or a function "
        "`(F, theta0) -> theta`"
    )

    def __check_init__(self) -> None:
        check_function(self.F, "F", "F(theta, psi, *args)")

    def __call__(self, theta: PyTree, psi: PyTree, *args: Any, **kwargs: Any) -> Any:
        return self.F(theta, psi, *args, **kwargs)

    def given(self, loss: Any) -> Callable[..., Any]:
        return Shaped(loss, "F", "residual")

    def over(self, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> "Root":
        return Root(change(self.F))

    def condition(self, loss: Any) -> AbstractCondition:
        return Zero(loss)


class Zero(AbstractCondition):
    """F = 0, for an F that is shaped like theta."""

    loss: Any
    symmetric: ClassVar[bool] = False

    def uses_psi(self) -> bool:
        return self.loss.inner.uses_psi(self.loss)

    def value_and_residual(self, theta: Params, key: PRNGKeyArray | None) -> tuple[Scalar, Params]:
        residual = Shaped(self.loss, "F", "residual")(theta, key)
        return norm(residual), residual
