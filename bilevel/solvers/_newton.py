from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray, Scalar

from .._mistakes import check_steps
from .._result import Result, worst
from .._tree import norm, split_key
from .._types import PyTree
from ..inverse_hvp import CG, AbstractInverseHVP
from ._base import AbstractSolver, Steps, check_tol


class Newton(AbstractSolver):
    """Newton's method, `theta - H^-1 grad`, with any inverse Hessian; one step is exact for a
    quadratic loss.

    There is no line search: far from the minimum of a loss that is not quadratic it can diverge,
    which is reported. There, start nearer, or use `LBFGS`.

    Attributes:
        inverse_hvp: how the inverse Hessian is applied.
        steps: how many steps.
        tol: a solve that ends with a gradient norm above this is reported. None: one whose last
            linear solve fell short, or whose gradient grew; and one that is still on its way by
            the length of its last step is `Result.not_judged`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel.solvers import Newton
        >>> theta, record = Newton()(lambda theta: jnp.sum((theta - 3) ** 2), jnp.zeros(2))
        >>> theta
        Array([3.00, 3.00], dtype=float32)
    """

    inverse_hvp: AbstractInverseHVP = eqx.field(default_factory=CG)
    steps: int = eqx.field(default=1, static=True)
    tol: float | None = None

    def __check_init__(self) -> None:
        check_tol(self.tol)
        check_steps(self.steps)

    def solve(
        self, loss: Callable[..., Scalar], theta0: PyTree[Array], key: PRNGKeyArray | None
    ) -> Steps:
        theta, losses, sizes, result = theta0, [], [], Result.successful
        condition, length = self.condition(loss), jnp.zeros(())
        for count in range(self.steps):
            key, gradient_key, solve_key = split_key(key, 3)
            value, gradient, hvp = condition.linearize(
                theta, gradient_key, rederive=self.inverse_hvp.rederive
            )
            adjoint = self.inverse_hvp(hvp, gradient, key=solve_key)
            theta = optax.tree.sub(theta, adjoint.v)
            losses.append(value)
            sizes.append(norm(gradient))
            length = norm(adjoint.v)
            last = self.tol is None and count == self.steps - 1
            result = worst(result, _of_the_inner_problem(adjoint.result, last))
        last = sizes[-1]
        inverse = jnp.where(last > 0, length / jnp.where(last > 0, last, 1), 0)
        steps, first = jnp.asarray(self.steps), sizes[0] if self.tol is None else None
        return Steps(theta, steps, jnp.stack(losses), result, self.tol, inverse, first)


def _of_the_inner_problem(result: Result, last: bool) -> Result:
    """A linear solve that fell short makes the step inexact, which the next one can mend."""
    short = (result == Result.max_steps_reached) | (result == Result.approximate)
    inexact = Result.not_stationary if last else Result.successful
    return Result.where(short, inexact, result)
