"""argmin as an operator that can be differentiated."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import PRNGKeyArray, PyTree

from ._closures import detached, holds_tracers, put_back
from ._implicit import attach, moving
from ._inner import InnerLoss, as_arrays, check_callable, strongly_typed
from ._result import Throw, act_on, check_throw
from ._tree import split_key
from .inverse_hvp import AbstractInverseHVP
from .inverse_hvp._base import as_inverse
from .solvers import AbstractSolver
from .solvers._base import as_solver


def argmin(
    inner: Callable,
    *,
    solver: AbstractSolver | Callable,
    inverse_hvp: AbstractInverseHVP | None = None,
    inner_has_aux: bool = False,
    forward_mode: bool = False,
    with_record: bool = False,
    throw: Throw = "raise",
) -> Callable[..., PyTree]:
    """A function `theta*(psi) = argmin of inner(., psi)` that can be differentiated.

    The derivative of theta* with a cotangent c is `-d/d psi <d inner/d theta, H^-1 c>` (implicit
    function theorem), whatever the solver did. It reaches psi, the inner arguments, arrays that
    `inner` closes over, and those of a projection. With respect to all other settings of a solver
    it is zero, as it is with respect to theta0, where asking for it warns. It composes: the
    solution of one problem may be the psi of another, an `inner` may itself call an `argmin`
    (three levels and more), and the derivative has derivatives.

    Args:
        inner: `inner(theta, psi, *inner_args, **inner_kwargs)`, a scalar; called with `key=` where
            one is given.
        solver: one of `bilevel.solvers`, or any `(loss, theta0) -> theta`.
        inverse_hvp: one of `bilevel.inverse_hvp`; `CG()` if None.
        inner_has_aux: whether `inner` returns `(scalar, aux)`.
        forward_mode: allow `jax.jvp` and `jax.jacfwd` as well as reverse mode; with few numbers in
            psi, the Jacobian of theta* is cheaper that way. Derivatives then always go through
            compiled code, whose errors are longer.
        with_record: return `(theta*, record)` with the `InnerRecord` of the solve, in which the
            `aux` of `inner` stands, too. No derivative goes through a record.
        throw: "raise" or "warn" where a solve failed, or "ignore" it. Reverse mode also raises
            where the adjoint shows that theta is certainly no minimum.

    Returns:
        `fn(psi, theta0, *inner_args, key=None, **inner_kwargs)`, which returns theta* shaped like
        theta0.

    Raises:
        ValueError: arguments that cannot work, before anything is solved.
        RuntimeError: a solve failed and `throw="raise"`; the message names the remedy.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from bilevel import argmin
        >>> from bilevel.solvers import Newton
        >>> fit = argmin(lambda theta, psi: jnp.sum((theta - psi) ** 2), solver=Newton())
        >>> jax.grad(lambda psi: jnp.sum(fit(psi, jnp.zeros(2)) ** 2))(jnp.array([1.0, 2.0]))
        Array([2.00, 4.00], dtype=float32)
    """
    check_throw(throw)
    check_callable(inner, "inner")
    inner_solver, inverse = as_solver(solver), as_inverse(inverse_hvp)

    def theta_star(
        psi: PyTree,
        theta0: PyTree,
        *inner_args: Any,
        key: PRNGKeyArray | None = None,
        **inner_kwargs: Any,
    ) -> PyTree:
        psi, theta0 = as_arrays(psi, "psi"), as_arrays(theta0, "theta0")
        start, static = eqx.partition(theta0, eqx.is_inexact_array)
        args, kwargs = strongly_typed((inner_args, inner_kwargs))
        loss = InnerLoss(inner, static, psi, args, kwargs, inner_has_aux)
        keys = split_key(key, 3)
        if not holds_tracers(psi, start, args, kwargs, keys, inner, inner_solver, inverse):
            theta, record = inner_solver(loss, start, keys[0])
        else:
            moved = moving(loss, inner_solver, theta0, key)
            fixed = detached(moved)
            solve = put_back(fixed.solver, fixed.held)
            theta, record = detached(solve(fixed.loss, fixed.start, keys[0]))
            theta = attach(moved, theta, keys, detached(inverse), throw, forward_mode=forward_mode)
        found = eqx.combine(act_on(record.result, throw, theta), static)
        return (found, record) if with_record else found

    return theta_star
