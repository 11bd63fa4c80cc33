"""argmin as an operator that can be differentiated."""

import warnings
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from ._inner import InnerLoss, as_arrays, mixed_vjp, strongly_typed
from ._result import Throw, act_on, check_throw
from ._tree import negative, split_key
from .inverse_hvp import CG, AbstractInverseHVP
from .solvers import AbstractSolver
from .solvers._base import as_solver


def argmin(
    inner: Callable,
    *,
    solver: AbstractSolver | Callable,
    inverse_hvp: AbstractInverseHVP | None = None,
    throw: Throw = "raise",
) -> Callable[..., PyTree]:
    """A function `theta*(psi) = argmin of inner(., psi)`, differentiable in reverse mode.

    The derivative of theta* with a cotangent c is `-d/d psi <d inner/d theta, H^-1 c>` (implicit
    function theorem), whatever the solver did. It reaches psi, the inner arguments, and arrays
    that `inner` closes over. With respect to theta0 it is zero by construction, and asking for it
    warns. The solution of one problem may be the psi of another; an `inner` that itself calls an
    `argmin` is beyond it, for its Hessian takes forward mode as well.

    Args:
        inner: `inner(theta, psi, *inner_args)`, a scalar; called with `key=` where one is given.
        solver: one of `bilevel.solvers`, or any `(loss, theta0) -> theta`.
        inverse_hvp: one of `bilevel.inverse_hvp`; `CG()` if None.
        throw: "raise" or "warn" where a solve failed, or "ignore" it.

    Returns:
        `fn(psi, theta0, *inner_args, key=None)`, which returns theta* shaped like theta0.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from bilevel import argmin
        >>> from bilevel.solvers import Newton
        >>> fit = argmin(lambda theta, psi: jnp.sum((theta - psi) ** 2), solver=Newton())
        >>> jax.grad(lambda psi: jnp.sum(fit(psi, jnp.zeros(2)) ** 2))(jnp.array([1.0, 2.0]))
        Array([2.00, 4.00], dtype=float32)
    """
    check_throw(throw)
    inner_solver = as_solver(solver)
    inverse = CG() if inverse_hvp is None else inverse_hvp

    def theta_star(
        psi: PyTree, theta0: PyTree, *inner_args, key: PRNGKeyArray | None = None
    ) -> PyTree:
        psi = as_arrays(psi, "psi")
        theta0 = as_arrays(theta0, "theta0")
        kwargs = {} if key is None else {"key": key}
        inner_args = strongly_typed(inner_args)
        closed = eqx.filter_closure_convert(inner, theta0, psi, *inner_args, **kwargs)
        start, static = eqx.partition(theta0, eqx.is_inexact_array)
        differentiable = (strongly_typed(closed), psi, inner_args, start)
        keys = split_key(key, 3)
        theta = _argmin(differentiable, static, keys, inner_solver, inverse, throw)
        return eqx.combine(theta, static)

    return theta_star


def _loss(differentiable, static):
    inner, psi, args, _ = differentiable
    return InnerLoss(inner, static, psi, args)


@eqx.filter_custom_vjp
def _argmin(differentiable, static, keys, solver, inverse, throw):
    theta, record = solver(_loss(differentiable, static), differentiable[-1], keys[0])
    return act_on(record.result, throw, theta)


@_argmin.def_fwd
def _argmin_fwd(perturbed, differentiable, static, keys, solver, inverse, throw):
    if any(jax.tree.leaves(perturbed[-1])):
        warnings.warn(
            "the derivative of argmin with respect to theta0 is zero by construction: the solution "
            "does not depend on where the solver starts.",
            stacklevel=2,
        )
    theta = _argmin(differentiable, static, keys, solver, inverse, throw)
    return theta, theta


@_argmin.def_bwd
def _argmin_bwd(theta, cotangent, perturbed, differentiable, static, keys, solver, inverse, throw):
    _, adjoint_key, mixed_key = keys
    loss = _loss(differentiable, static)
    g = jax.tree.map(lambda t, c: jnp.zeros_like(t) if c is None else c, theta, cotangent)
    hvp = inverse.operator(loss, theta, stochastic=adjoint_key is not None)
    adjoint = inverse(hvp, g, key=adjoint_key)
    v = act_on(adjoint.result, throw, adjoint.v)
    inner, psi, args, theta0 = perturbed
    spec = InnerLoss(inner, jax.tree.map(lambda _: False, static), psi, args)
    mixed = negative(mixed_vjp(loss, spec, theta, v, mixed_key))
    zero = jax.tree.map(lambda t, asked: jnp.zeros_like(t) if asked else None, theta, theta0)
    return mixed.inner, mixed.psi, mixed.args, zero
