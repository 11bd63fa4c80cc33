"""What holds at the solution of an inner problem: F(theta) = 0, and the derivatives of F."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
from jaxtyping import Array, Bool, PRNGKeyArray, Scalar

from .._inner import Params
from .._jaxpr import holds_primitive
from .._loops import loops_slowly
from .._operator import AbstractOperator, Linear, Rederived
from .._transposes import store_transposes
from .._tree import vdot
from .._types import PyTree


class AbstractCondition(eqx.Module):
    """A function F of theta that is zero at the solution; its Jacobian is what is inverted."""

    loss: eqx.AbstractVar[Any]
    symmetric: ClassVar[bool]
    """Whether the Jacobian is, as Hessians are."""
    measure: ClassVar[str] = "residual"
    """What F is called."""

    @abc.abstractmethod
    def value_and_residual(self, theta: Params, key: PRNGKeyArray | None) -> tuple[Scalar, Params]:
        """The inner loss at theta, or where there is none the norm of F; and F."""

    def residual(self, theta: Params, key: PRNGKeyArray | None) -> Params:
        return self.value_and_residual(theta, key)[1]

    def along(self, theta: Params, v: Params, key: PRNGKeyArray | None) -> Scalar:
        """`<F(theta), v>`."""
        return vdot(self.residual(theta, key), v)

    def loops_slowly(self, theta: Params, key: PRNGKeyArray | None) -> bool:
        """Whether an XLA loop around F would take the slow path."""
        return loops_slowly(type(self).value_and_residual, self, theta, key)

    def degenerate(self, theta: Params) -> Bool[Array, ""] | None:
        """Whether F has no derivative at theta; None where it always has one."""
        return None

    def descends(self, theta: Params) -> Bool[Array, ""] | None:
        """Whether theta satisfies F and yet is no minimum; None where that is not looked at."""
        return None

    def uses_psi(self) -> bool:
        """Whether psi reaches F, whose functions are traced; True where that is not known."""
        return True

    def linearize(
        self, theta: Params, key: PRNGKeyArray | None, *, rederive: bool
    ) -> tuple[Scalar, Params, AbstractOperator]:
        """The value, F, and `d F / d theta`, derived anew at each product where that is asked
        for, or F is random.
        """
        if rederive or key is not None:
            value, residual = value_and_residual(self, theta, key)
            return value, residual, Rederived(self.residual, theta, self_adjoint=self.symmetric)
        value, residual, linear = _linearized(self, theta)
        return value, residual, Linear(linear, self_adjoint=self.symmetric)


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
    if not condition.symmetric:
        raise ValueError(
            "inner holds a derivative rule (custom_vjp) that has no forward mode, which the "
            "Jacobian of a root or a fixed point needs: give it a custom_jvp, or, where inner is a "
            "smooth loss, use a solver of smooth problems, such as LBFGS."
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
