"""What holds at the solution of an inner problem: F(theta) = 0, and the derivatives of F."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
from jaxtyping import Array, PRNGKeyArray, PyTree, Scalar

from ._inner import InnerLoss, Params, evaluate, loss_holds
from ._jaxpr import holds_primitive
from ._loops import CONVOLUTION, loops_slowly, on_cpu
from ._operator import AbstractOperator, Linear, Rederived
from ._transposes import store_transposes
from ._tree import check_form, vdot


class AbstractCondition(eqx.Module):
    """A function F of theta that is zero at the solution; its Jacobian is what is inverted."""

    loss: eqx.AbstractVar[Any]
    symmetric: ClassVar[bool]
    """Whether the Jacobian is, as Hessians are."""

    @abc.abstractmethod
    def value_and_residual(self, theta: Params, key: PRNGKeyArray | None) -> tuple[Scalar, Params]:
        """The inner loss at theta, and F."""

    def residual(self, theta: Params, key: PRNGKeyArray | None) -> Params:
        return self.value_and_residual(theta, key)[1]

    def along(self, theta: Params, v: Params, key: PRNGKeyArray | None) -> Scalar:
        """`<F(theta), v>`."""
        return vdot(self.residual(theta, key), v)

    def loops_slowly(self, theta: Params, key: PRNGKeyArray | None) -> bool:
        """Whether an XLA loop around F would take the slow path."""
        return loops_slowly(type(self).value_and_residual, self, theta, key)

    def linearize(
        self, theta: Params, key: PRNGKeyArray | None, *, rederive: bool
    ) -> tuple[Scalar, Params, AbstractOperator]:
        """The inner loss, F, and `d F / d theta`, derived anew at each product where that is asked
        for, or F is random.
        """
        if rederive or key is not None:
            value, residual = value_and_residual(self, theta, key)
            return value, residual, Rederived(self.residual, theta, self_adjoint=self.symmetric)
        value, residual, linear = _linearized(self, theta)
        return value, residual, Linear(linear, self_adjoint=self.symmetric)


class Stationary(AbstractCondition):
    """F = d loss / d theta. Its Jacobian is the Hessian."""

    loss: Any
    symmetric: ClassVar[bool] = True

    def loops_slowly(self, theta, key):
        return on_cpu() and loss_holds(CONVOLUTION, self.loss, theta, key)

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


class FixedPoint(AbstractCondition):
    """F = (theta - prox(theta - s d loss / d theta)) / s, with s the step size.

    It is the gradient where the proximal operator does nothing. Its Jacobian is not symmetric.
    """

    loss: Any
    prox: Callable
    step_size: Scalar
    symmetric: ClassVar[bool] = False

    def value_and_residual(self, theta, key):
        value, gradient = Stationary(self.loss).value_and_residual(theta, key)
        after = proximal_step(self.loss, self.prox, self.step_size, theta, gradient)
        return value, jax.tree.map(
            lambda t, a: (t - a) / self.step_size.astype(t.dtype), theta, after
        )


def proximal_step(
    loss: Callable, prox: Callable, step_size: Scalar, theta: Params, gradient: Params
) -> Params:
    """`prox(theta - step_size gradient, psi, step_size)`."""
    moved = jax.tree.map(lambda t, g: t - step_size.astype(t.dtype) * g, theta, gradient)
    psi = loss.psi if isinstance(loss, InnerLoss) else None
    whole = eqx.combine(moved, loss.theta_static) if isinstance(loss, InnerLoss) else moved
    after = eqx.filter(prox(whole, psi, step_size), eqx.is_inexact_array)
    check_form(after, theta, "prox returned", "theta", "theta0")
    return after


@eqx.filter_jit
def _linearized(condition, theta):
    def residual_and_value(theta):
        value, residual = condition.value_and_residual(theta, None)
        return residual, value

    residual, linear, value = jax.linearize(residual_and_value, theta, has_aux=True)
    closed, form = jax.make_jaxpr(linear, return_shape=True)(theta)
    # The tangent of a derivative rule without forward mode, which can be transposed alone.
    if holds_primitive("custom_lin", closed):
        return _linearized_backwards(condition, residual_and_value, theta)
    return value, residual, store_transposes(linear, theta, (closed, form))


def _linearized_backwards(condition, residual_and_value, theta):
    """The same by reverse mode over reverse mode, for a Hessian, which is its own transpose."""
    if not isinstance(condition, Stationary):
        raise ValueError(
            "inner holds a derivative rule (custom_vjp) that has no forward mode, which the "
            "Jacobian of a fixed point needs: give it a custom_jvp, or use a solver of smooth "
            "problems, such as LBFGS."
        )
    residual, pull, value = jax.vjp(residual_and_value, theta, has_aux=True)
    linear = eqx.filter_closure_convert(lambda v: pull(v)[0], theta)
    return value, residual, linear


@eqx.filter_jit
def value_and_residual(
    condition: AbstractCondition, theta: Params, key: PRNGKeyArray | None
) -> tuple[Scalar, Params]:
    return condition.value_and_residual(theta, key)


@eqx.filter_jit
def mixed_vjp(
    condition_of: Callable[[PyTree, Any], AbstractCondition],
    moving: PyTree[Array],
    fixed: Any,
    theta: Params,
    v: Params,
    key: PRNGKeyArray | None,
) -> PyTree[Array]:
    """`d/d moving <F(theta), v>`, with F that of `condition_of(moving, fixed)`."""

    def along(moving):
        return condition_of(moving, fixed).along(theta, v, key)

    return jax.grad(along)(moving)
