"""argmin, root and fixed_point as operators that can be differentiated."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import PRNGKeyArray

from ._closures import detached, holds_tracers, put_back
from ._implicit import as_it_is, attach, moving
from ._inner import InnerLoss, as_arrays, check_callable, strongly_typed
from ._point import primal
from ._result import Throw, act_on, check_throw
from ._tree import split_key
from ._types import PyTree
from .functions import SolutionFn, _described
from .inverse_hvp import AbstractInverseHVP
from .inverse_hvp._base import as_inverse
from .inverse_hvp._finite_difference import NEEDS_A_LOSS, FiniteDifference
from .problems import FixedPoint, Root
from .problems._base import begin, inverse_for
from .solvers import AbstractSolver
from .solvers._base import as_solver


def argmin(
    inner: Callable[..., Any],
    *,
    solver: AbstractSolver | Callable[..., Any],
    inverse_hvp: AbstractInverseHVP | None = None,
    inner_has_aux: bool = False,
    forward_mode: bool = False,
    with_record: bool = False,
    throw: Throw = "raise",
) -> SolutionFn:
    """A function `theta*(psi) = argmin of inner(., psi)` that can be differentiated.

    The derivative of theta* with a cotangent c is `-d/d psi <d inner/d theta, H^-1 c>` (implicit
    function theorem), whatever the solver did. It reaches psi, the inner arguments, arrays that
    `inner` closes over, and those of a projection. With respect to all other settings of a solver
    it is zero, as it is with respect to theta0, where asking for it warns. It composes: the
    solution of one problem may be the psi of another, an `inner` may itself call an `argmin`
    (three levels and more), and the derivative has derivatives.

    Args:
        inner: `inner(theta, psi, *inner_args, **inner_kwargs)`, a scalar; called with `key=` where
            one is given. Or one of `bilevel.problems`: what is returned is then its solution.
        solver: one of `bilevel.solvers`, or any `(loss, theta0) -> theta`.
        inverse_hvp: one of `bilevel.inverse_hvp`; None: `CG()`, `Dense()` for a `Constrained`
            problem, and what suits the size of a `Root` or a `FixedPoint` (see `root`).
        inner_has_aux: whether `inner` returns `(scalar, aux)`.
        forward_mode: allow `jax.jvp` and `jax.jacfwd` as well as reverse mode; with few numbers in
            psi, the Jacobian of theta* is cheaper that way. Derivatives then always go through
            compiled code, whose errors are longer.
        with_record: return `(theta*, record)` with the `InnerRecord` of the solve, in which the
            `aux` of `inner` stands, too. No derivative goes through a record.
        throw: "raise" or "warn" where a solve failed, or "ignore" it. Reverse mode also raises
            where the adjoint shows that theta is certainly no minimum.

    Returns:
        A function `solution_at(psi, theta0, *inner_args, key=None, **inner_kwargs)`, which returns
        theta*, shaped like theta0.

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
    inner_solver, inverse = as_solver(solver, inner), as_inverse(inverse_for(inner, inverse_hvp))
    if isinstance(inverse, FiniteDifference):
        raise ValueError(NEEDS_A_LOSS)

    @_described(SolutionFn, "solution_at")
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
        loss, start = begin(loss, start)
        keys = split_key(key, 3)
        if not holds_tracers(psi, start, args, kwargs, keys, inner, inner_solver, inverse):
            loss = as_it_is(loss, inner_solver, start, key)
            theta, record = inner_solver(loss, start, keys[0])
        else:
            moved = moving(loss, inner_solver, start, key)
            fixed = detached(moved)
            solve = put_back(fixed.solver, fixed.held)
            theta, record = detached(solve(fixed.loss, fixed.start, keys[0]))
            theta = attach(moved, theta, keys, detached(inverse), throw, forward_mode=forward_mode)
        found = eqx.combine(primal(act_on(record.result, throw, theta)), static)
        return (found, record) if with_record else found

    return theta_star


def root(
    F: Callable[..., Any],
    *,
    solver: AbstractSolver | Callable[..., Any],
    inverse_hvp: AbstractInverseHVP | None = None,
    inner_has_aux: bool = False,
    forward_mode: bool = False,
    with_record: bool = False,
    throw: Throw = "raise",
) -> SolutionFn:
    """A function `theta*(psi)` with `F(theta*, psi) = 0` that can be differentiated.

    It is `argmin` of `bilevel.problems.Root(F)`, and has all that `argmin` has: both modes,
    derivatives of derivatives, `jit`, `vmap`, nesting. With J the Jacobian of F in theta, which
    need not be symmetric,

        d theta* / d psi = -J^-1 dF / d psi

    Args:
        F: `F(theta, psi, *args, **kwargs)`, shaped like theta; called with `key=` where one is
            given.
        solver: `Newton(Dense(), steps=...)`, `Optimistix` with a root finder, or any
            `(F, theta0) -> theta`, whose F is a function of theta.
        inverse_hvp: one of `bilevel.inverse_hvp` that takes a matrix that is not symmetric:
            `Dense`, `Lineax` with GMRES. None: `Dense()` for up to 512 numbers, GMRES beyond.
        inner_has_aux: whether F returns `(value, aux)`.
        forward_mode: allow `jax.jvp` and `jax.jacfwd` as well as reverse mode.
        with_record: return `(theta*, record)` with the `InnerRecord` of the solve.
        throw: "raise" or "warn" where a solve failed, or "ignore" it.

    Returns:
        A function `solution_at(psi, theta0, *args, key=None, **kwargs)`, which returns theta*,
        shaped like theta0.

    Raises:
        ValueError: arguments that cannot work: F of another shape, a solver of minima.
        RuntimeError: a solve failed and `throw="raise"`; the message names the remedy.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from bilevel import root
        >>> from bilevel.inverse_hvp import Dense
        >>> from bilevel.solvers import Newton
        >>> square_root = root(lambda theta, psi: theta**2 - psi, solver=Newton(Dense(), steps=6))
        >>> jax.value_and_grad(square_root)(jnp.float32(4), jnp.float32(1))
        (Array(2.00, dtype=float32), Array(0.25, dtype=float32))
    """
    return argmin(
        Root(F),
        solver=solver,
        inverse_hvp=inverse_hvp,
        inner_has_aux=inner_has_aux,
        forward_mode=forward_mode,
        with_record=with_record,
        throw=throw,
    )


def fixed_point(
    f: Callable[..., Any],
    *,
    solver: AbstractSolver | Callable[..., Any],
    inverse_hvp: AbstractInverseHVP | None = None,
    inner_has_aux: bool = False,
    forward_mode: bool = False,
    with_record: bool = False,
    throw: Throw = "raise",
) -> SolutionFn:
    """A function `theta*(psi)` with `theta* = f(theta*, psi)` that can be differentiated.

    It is `argmin` of `bilevel.problems.FixedPoint(f)`. No step of the iteration is kept in memory:

        d theta* / d psi = (I - df / d theta)^-1 df / d psi

    Args:
        f: `f(theta, psi, *args, **kwargs)`, shaped like theta; called with `key=` where one is
            given.
        solver: `FixedPointIteration()`, `Anderson()`, `Newton(Dense(), steps=...)`, `Optimistix`
            with a fixed-point solver, or any `(f, theta0) -> theta`, f being a function of theta.
        inverse_hvp: one of `bilevel.inverse_hvp` that takes a matrix that is not symmetric:
            `Dense`, `Lineax` with GMRES; `Neumann(steps, step_size=1.0)` iterates on the adjoint.
            None: `Dense()` for up to 512 numbers, GMRES beyond.
        inner_has_aux: whether f returns `(value, aux)`.
        forward_mode: allow `jax.jvp` and `jax.jacfwd` as well as reverse mode.
        with_record: return `(theta*, record)` with the `InnerRecord` of the solve.
        throw: "raise" or "warn" where a solve failed, or "ignore" it.

    Returns:
        A function `solution_at(psi, theta0, *args, key=None, **kwargs)`, which returns theta*,
        shaped like theta0.

    Raises:
        ValueError: arguments that cannot work: f of another shape, a solver of minima.
        RuntimeError: a solve failed and `throw="raise"`; the message names the remedy.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from bilevel import fixed_point
        >>> from bilevel.solvers import Anderson
        >>> dottie = fixed_point(lambda theta, psi: jnp.cos(psi * theta), solver=Anderson())
        >>> dottie(jnp.asarray(1.0), jnp.asarray(1.0))
        Array(0.739085, dtype=float32)
        >>> jax.grad(dottie)(jnp.float32(1), jnp.float32(1))
        Array(-0.297474, dtype=float32)
    """
    return argmin(
        FixedPoint(f),
        solver=solver,
        inverse_hvp=inverse_hvp,
        inner_has_aux=inner_has_aux,
        forward_mode=forward_mode,
        with_record=with_record,
        throw=throw,
    )
