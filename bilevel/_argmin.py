"""argmin as an operator that can be differentiated."""

import warnings
from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jaxtyping import PRNGKeyArray, PyTree

from ._condition import AbstractCondition, mixed_vjp, spec_of_loss
from ._inner import InnerLoss, as_arrays, product, strongly_typed
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
    forward_mode: bool = False,
    throw: Throw = "raise",
) -> Callable[..., PyTree]:
    """A function `theta*(psi) = argmin of inner(., psi)` that can be differentiated.

    The derivative of theta* with a cotangent c is `-d/d psi <d inner/d theta, H^-1 c>` (implicit
    function theorem), whatever the solver did. It reaches psi, the inner arguments, and arrays
    that `inner` closes over. With respect to theta0 it is zero by construction, and asking for it
    warns. It composes: the solution of one problem may be the psi of another, an `inner` may
    itself call an `argmin` (three levels and more), and the derivative has derivatives.

    Args:
        inner: `inner(theta, psi, *inner_args)`, a scalar; called with `key=` where one is given.
        solver: one of `bilevel.solvers`, or any `(loss, theta0) -> theta`.
        inverse_hvp: one of `bilevel.inverse_hvp`; `CG()` if None.
        forward_mode: allow `jax.jvp` and `jax.jacfwd` as well as reverse mode; with few numbers in
            psi, the Jacobian of theta* is cheaper that way. Derivatives then always go through
            compiled code, whose errors are longer.
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
        solve = _argmin_any_mode if forward_mode else _argmin
        theta = solve(differentiable, static, keys, inner_solver, inverse, throw)
        return eqx.combine(theta, static)

    return theta_star


def _condition(solver, differentiable, static) -> AbstractCondition:
    inner, psi, args, _ = differentiable
    return solver.condition(InnerLoss(inner, static, psi, args))


def _solve(differentiable, static, keys, solver, inverse, throw):
    condition = _condition(solver, differentiable, static)
    theta, record = solver(condition.loss, differentiable[-1], keys[0])
    return act_on(record.result, throw, theta)


_argmin = eqx.filter_custom_vjp(_solve)
_argmin_any_mode = eqx.filter_custom_jvp(_solve)


@_argmin.def_fwd
def _argmin_fwd(perturbed, differentiable, static, keys, solver, inverse, throw):
    if any(jax.tree.leaves(perturbed[-1])):
        _warn_of_theta0()
    theta = _argmin_any_mode(differentiable, static, keys, solver, inverse, throw)
    return theta, theta


@_argmin.def_bwd
def _argmin_bwd(theta, cotangent, perturbed, differentiable, static, keys, solver, inverse, throw):
    _, adjoint_key, mixed_key = keys
    condition = _condition(solver, differentiable, static)
    g = jax.tree.map(lambda t, c: jnp.zeros_like(t) if c is None else c, theta, cotangent)
    *_, jacobian = condition.linearize(theta, adjoint_key, rederive=inverse.rederive)
    v = _invert(jacobian.T, g, inverse, throw, adjoint_key)
    inner, psi, args, theta0 = perturbed
    fixed = jax.tree.map(lambda _: False, static)
    spec = spec_of_loss(condition, InnerLoss(inner, fixed, psi, args))
    mixed = negative(mixed_vjp(condition, spec, theta, v, mixed_key)).loss
    zero = jax.tree.map(lambda t, asked: jnp.zeros_like(t) if asked else None, theta, theta0)
    return mixed.inner, mixed.psi, mixed.args, zero


@_argmin_any_mode.def_jvp
def _argmin_jvp(primals, tangents):
    differentiable, static, keys, solver, inverse, throw = primals
    _, adjoint_key, mixed_key = keys
    along, *_ = tangents
    if jax.tree.leaves(along[-1]):
        _warn_of_theta0()
    theta = _argmin_any_mode(*primals)
    condition = _condition(solver, differentiable, static)
    *_, jacobian = condition.linearize(theta, adjoint_key, rederive=inverse.rederive)
    given = jax.tree.map(lambda t: t is not None, along[:-1], is_leaf=lambda t: t is None)
    moving, fixed = eqx.partition(differentiable[:-1], given)

    def residual(moving):
        whole = (*eqx.combine(moving, fixed), differentiable[-1])
        return _condition(solver, whole, static).value_and_residual(theta, mixed_key)[1]

    _, change = jax.jvp(residual, (moving,), (along[:-1],))
    return theta, _invert(jacobian, negative(change), inverse, throw, adjoint_key)


def _invert(jacobian, g, inverse, throw, key):
    """`jacobian^-1 g`, which can itself be differentiated where it is traced."""

    def solve(jacobian, g):
        adjoint = inverse(jacobian, g, key=key)
        return act_on(adjoint.result, throw, adjoint.v)

    if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((jacobian, g))):
        return solve(jacobian, g)
    symmetric = jacobian is jacobian.T
    return lax.custom_linear_solve(
        partial(product, jacobian, key=key),
        g,
        lambda _, g: solve(jacobian, g),
        None if symmetric else lambda _, g: solve(jacobian.T, g),
        symmetric=symmetric,
    )


def _warn_of_theta0():
    warnings.warn(
        "the derivative of argmin with respect to theta0 is zero by construction: the solution "
        "does not depend on where the solver starts.",
        stacklevel=3,
    )
