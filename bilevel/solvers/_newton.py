import equinox as eqx
import jax.numpy as jnp
import optax

from .._inner import value_and_grad
from .._result import Result, worst
from .._tree import split_key
from ..inverse_hvp import CG, AbstractInverseHVP
from ._base import AbstractSolver, Steps


class Newton(AbstractSolver):
    """Newton's method, `theta - H^-1 grad`, with any inverse Hessian; one step is exact for a
    quadratic loss.

    Attributes:
        inverse_hvp: how the inverse Hessian is applied.
        steps: how many steps.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel.solvers import Newton
        >>> theta, record = Newton()(lambda theta: jnp.sum((theta - 3) ** 2), jnp.zeros(2))
        >>> theta
        Array([3.00, 3.00], dtype=float32)
    """

    inverse_hvp: AbstractInverseHVP = eqx.field(default_factory=CG)
    steps: int = eqx.field(default=1, static=True)

    def __check_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps={self.steps} leaves no step to take: give 1 or more.")

    def solve(self, loss, theta0, key):
        theta, losses, result = theta0, [], Result.successful
        for _ in range(self.steps):
            key, gradient_key, solve_key = split_key(key, 3)
            value, gradient = value_and_grad(loss, theta, gradient_key)
            hvp = self.inverse_hvp.operator(loss, theta, stochastic=key is not None)
            adjoint = self.inverse_hvp(hvp, gradient, key=solve_key)
            theta = optax.tree.sub(theta, adjoint.v)
            losses.append(value)
            result = worst(result, adjoint.result)
        return Steps(theta, jnp.asarray(self.steps), jnp.stack(losses), result)
