"""The minimum of a loss: its gradient is zero."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
from jaxtyping import Array, Scalar

from .._inner import InnerLoss, evaluate, loss_holds
from .._loops import CONVOLUTION, on_cpu
from .._operator import AbstractOperator, Rederived
from .._traced_loss import TracedLoss
from .._types import PyTree
from ._condition import AbstractCondition


class Stationary(AbstractCondition):
    """F = d loss / d theta. Its Jacobian is the Hessian."""

    loss: Any
    symmetric: ClassVar[bool] = True
    measure: ClassVar[str] = "gradient"

    def loops_slowly(self, theta, key):
        return on_cpu() and loss_holds(CONVOLUTION, self.loss, theta, key)

    def uses_psi(self):
        traced = self.loss.inner if isinstance(self.loss, InnerLoss) else None
        return traced.uses(1, self.loss.has_aux) if isinstance(traced, TracedLoss) else True

    def value_and_residual(self, theta, key):
        return jax.value_and_grad(lambda t: evaluate(self.loss, t, key))(theta)

    def along(self, theta, v, key):
        # A loss that holds a custom_vjp, as an argmin is, has no forward mode. Any other has it
        # used: where psi is images, reverse mode twice takes four times as long on a CPU
        # (benchmarks/derivatives.py).
        if loss_holds("custom_vjp_call", self.loss, theta, key):
            return super().along(theta, v, key)
        return jax.jvp(lambda t: evaluate(self.loss, t, key), (theta,), (v,))[1]


def hessian(
    loss: Callable[..., Scalar], theta: PyTree[Array], *, rederive: bool = False
) -> AbstractOperator:
    """The Hessian of `loss` at theta as a function of v, for an inverse Hessian.

    It is linearised once, and no product derives anything anew; or, with `rederive`, each does,
    for the memory of one of them.

    Args:
        loss: `loss(theta)`, a scalar; of `(theta, key=...)` where a product is given a key.
        theta: a pytree of floating-point arrays.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel import hessian
        >>> from bilevel.inverse_hvp import CG
        >>> product = hessian(lambda theta: jnp.sum(theta**4), jnp.array([1.0, 2.0]))
        >>> v = CG()(product, jnp.array([12.0, 48.0])).v
        >>> bool(jnp.allclose(v, 1.0))
        True
    """
    condition = Stationary(loss)
    if rederive:
        return Rederived(condition.residual, theta, self_adjoint=True)
    return condition.linearize(theta, None, rederive=False)[-1]
