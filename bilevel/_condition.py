"""What holds at the solution of an inner problem: F(theta) = 0, and the derivatives of F."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray, PyTree, Scalar

from ._inner import (
    InnerLoss,
    LinearizedHVP,
    Params,
    RederivedHVP,
    evaluate,
    loss_holds,
)
from ._loops import CONVOLUTION, holds_primitive, loops_slowly, on_cpu
from ._transposes import store_transposes
from ._tree import check_form, vdot


class AbstractCondition(eqx.Module):
    """A function F of theta that is zero at the solution; its Jacobian is what is inverted."""

    loss: eqx.AbstractVar[Any]

    @property
    def symmetric(self) -> bool:
        """Whether the Jacobian is, as Hessians are."""
        return True

    @abc.abstractmethod
    def value_and_residual(self, theta: Params, key: PRNGKeyArray | None) -> tuple[Scalar, Params]:
        """The inner loss at theta, and F."""

    def along(self, theta: Params, v: Params, key: PRNGKeyArray | None) -> Scalar:
        """`<F(theta), v>`."""
        return vdot(self.value_and_residual(theta, key)[1], v)

    def loops_slowly(self, theta: Params, key: PRNGKeyArray | None) -> bool:
        """Whether an XLA loop around F would take the slow path."""
        return loops_slowly(type(self).value_and_residual, self, theta, key)

    @abc.abstractmethod
    def operator(self, theta: Params, linear: Callable[[Params], Params] | None) -> Any:
        """`d F / d theta` as a function of v, derived anew at each call where `linear` is None.

        Its transpose is at `T`.
        """

    def linearize(
        self, theta: Params, key: PRNGKeyArray | None, *, rederive: bool
    ) -> tuple[Scalar, Params, Any]:
        """The inner loss, F, and `d F / d theta`."""
        if rederive or key is not None:
            return *value_and_residual(self, theta, key), self.operator(theta, None)
        value, residual, linear = _linearized(self, theta)
        return value, residual, self.operator(theta, linear)


class Stationary(AbstractCondition):
    """F = d loss / d theta. Its Jacobian is the Hessian."""

    loss: Any

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

    def operator(self, theta, linear):
        return RederivedHVP(self.loss, theta) if linear is None else LinearizedHVP(linear)


class FixedPoint(AbstractCondition):
    """F = (theta - prox(theta - s d loss / d theta)) / s, with s the step size.

    It is the gradient where the proximal operator does nothing. Its Jacobian is not symmetric.
    """

    loss: Any
    prox: Callable
    step_size: Scalar

    @property
    def symmetric(self):
        return False

    def value_and_residual(self, theta, key):
        value, gradient = Stationary(self.loss).value_and_residual(theta, key)
        after = proximal_step(self.loss, self.prox, self.step_size, theta, gradient)
        return value, jax.tree.map(
            lambda t, a: (t - a) / self.step_size.astype(t.dtype), theta, after
        )

    def operator(self, theta, linear):
        return Jacobian(self, theta, linear, False)


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


class Jacobian(eqx.Module):
    """v -> (d F / d theta) v; `T` is its transpose."""

    condition: AbstractCondition
    theta: Params
    linear: Callable[[Params], Params] | None
    transposed: bool = eqx.field(static=True)
    symmetric: ClassVar[bool] = False

    def __call__(self, v: Params, key: PRNGKeyArray | None = None) -> Params:
        if self.linear is not None:
            return jax.linear_transpose(self.linear, v)(v)[0] if self.transposed else self.linear(v)

        def residual(theta):
            return self.condition.value_and_residual(theta, key)[1]

        if self.transposed:
            return jax.vjp(residual, self.theta)[1](v)[0]
        return jax.jvp(residual, (self.theta,), (v,))[1]

    @property
    def T(self) -> "Jacobian":
        return Jacobian(self.condition, self.theta, self.linear, not self.transposed)


@eqx.filter_jit
def value_and_residual(
    condition: AbstractCondition, theta: Params, key: PRNGKeyArray | None
) -> tuple[Scalar, Params]:
    return condition.value_and_residual(theta, key)


@eqx.filter_jit
def mixed_vjp(
    condition_of: Callable[[Any], AbstractCondition],
    moved: PyTree,
    spec: PyTree[bool],
    theta: Params,
    v: Params,
    key: PRNGKeyArray | None,
) -> PyTree:
    """The derivative of `<F(theta), v>` with respect to the leaves of `moved` in `spec`.

    F is that of `condition_of(moved)`; None stands at all other leaves.
    """
    differentiated, fixed = eqx.partition(moved, spec)

    def along(differentiated):
        return condition_of(eqx.combine(differentiated, fixed)).along(theta, v, key)

    return jax.grad(along)(differentiated)
