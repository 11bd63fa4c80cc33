"""The outer problem in one call: quasi-Newton steps on psi with exact hypergradients."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from ._inner import as_arrays, check_args, check_callable
from ._mistakes import INNER, OUTER
from ._outer import Losses, Outer
from ._outer_descent import Descent, Minimum, OuterStep
from ._result import Result, Throw, act_on, check_throw, failed, worst
from ._traced_loss import is_jit_disabled, trace_loss
from ._types import PyTree
from .inverse_hvp import AbstractInverseHVP
from .inverse_hvp._base import as_inverse
from .problems._base import inverse_for, over_functions
from .solvers import AbstractSolver, NewtonCG
from .solvers._base import as_solver


def minimize(
    outer: Callable[..., Any],
    inner: Callable[..., Any],
    psi0: PyTree,
    theta0: PyTree,
    *,
    outer_args: tuple[Any, ...] = (),
    inner_args: tuple[Any, ...] = (),
    solver: AbstractSolver | Callable[..., Any] | None = None,
    inverse_hvp: AbstractInverseHVP | None = None,
    tol: float | None = None,
    max_steps: int = 200,
    bounds: Any = None,
    has_aux: bool = False,
    inner_has_aux: bool = False,
    callback: Callable[[OuterStep], Any] | None = None,
    throw: Throw = "raise",
) -> Minimum:
    """Minimise `outer(theta*(psi), psi)` over psi, with no learning rate to choose.

    Limited-memory BFGS with a line search on psi. Each hypergradient starts from the theta and
    the v of the last one, and is no more accurate than the progress asks for: both solves are
    tightened as the gradient in psi shrinks (Pedregosa, "Hyperparameter optimization with
    approximate gradient", 2016). The value that the line search compares is `h.value + h.change`,
    whose error is of second order in what is left of the inner problem.

    Args:
        outer: `outer(theta, psi, *outer_args)`, a scalar (and anything, with `has_aux`). Neither
            loss may be stochastic.
        inner: `inner(theta, psi, *inner_args)`, a scalar, or one of `bilevel.problems`, which asks
            for a `solver`. theta and psi are any pytree; their floating-point arrays are what is
            solved for.
        psi0: where to start; any pytree, its floating-point arrays are what is minimised over.
        theta0: where the inner problem is started the first time.
        outer_args: further arguments of `outer`, e.g. held-out data.
        inner_args: further arguments of `inner`, e.g. training data.
        solver: how theta* is found; None: `solvers.NewtonCG`, to a tolerance that follows the
            outer progress. Any other is used as it is, from the last theta.
        inverse_hvp: how H^-1 g is applied; None: `CG`, to a tolerance that follows the progress.
        tol: stop where a step is expected to lower the value by less than this part of it (or than
            the rounding of theta shows, where the value goes to zero), and the last step did not do
            more either. None: 1e-7 in float64, 1e-5 otherwise.
        max_steps: at most so many steps of psi.
        bounds: `(lower, upper)`, each None, a number, or a pytree shaped like psi with numbers,
            arrays or None as leaves, one of which may stand for a whole subtree; psi0 is clipped
            to them.
        has_aux: whether `outer` returns `(scalar, aux)`; the last `aux` is in the `Minimum`'s
            `hypergradient`.
        inner_has_aux: whether `inner` returns `(scalar, aux)`.
        callback: called with an `OuterStep` after each step; `print` will do. Where it
            returns True it ends the minimisation there and then, with the hypergradient of that
            step, which is no more accurate than the progress asked for.
        throw: "raise" or "warn" where it failed, or "ignore" it and read the result.

    Returns:
        A `Minimum`; where `result` is a failure, at the last step that was accepted.

    Raises:
        ValueError: arguments that cannot work, before anything is solved.
        RuntimeError: a failure and `throw="raise"`; the message names the remedy, and what was
            found so far is its attribute `minimum`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel import minimize
        >>> inner = lambda theta, psi: jnp.sum((theta - 1) ** 2) + jnp.exp(psi) * jnp.sum(theta**2)
        >>> outer = lambda theta, psi: jnp.sum((theta - 0.25) ** 2)
        >>> found = minimize(outer, inner, jnp.asarray(0.0), jnp.zeros(2))
        >>> found.psi, found.theta
        (Array(1.10, dtype=float32), Array([0.25, 0.25], dtype=float32))
    """
    check_throw(throw)
    check_callable(outer, "outer")
    check_callable(inner, "inner")
    check_args(outer_args, "outer_args")
    check_args(inner_args, "inner_args")
    if callback is not None and not callable(callback):
        raise ValueError(f"callback={callback!r} is no function: pass one, or `print`.")
    psi0, theta0 = as_arrays(psi0, "psi0"), as_arrays(theta0, "theta0")
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((psi0, theta0))):
        raise ValueError(
            "minimize steps from Python and cannot run under jax.jit, jax.vmap or jax.grad: call "
            "it as it is; what it computes is compiled."
        )
    if max_steps < 1:
        raise ValueError(f"max_steps={max_steps} leaves no step to take: give 1 or more.")
    if tol is not None and not tol > 0:
        raise ValueError(f"tol={tol} is never reached: give a part of the value, e.g. 1e-6.")
    if solver is None:
        as_solver(NewtonCG(), inner)  # says where the default does not suit
    inverse = inverse_for(inner, inverse_hvp)
    args = {"outer_args": tuple(outer_args), "inner_args": tuple(inner_args)}
    if not is_jit_disabled():  # those of the same code are the same program
        outer = trace_loss(outer, OUTER, theta0, psi0, *args["outer_args"])
        inner = over_functions(
            inner, lambda function: trace_loss(function, INNER, theta0, psi0, *args["inner_args"])
        )
    problem = Outer(
        Losses(outer, inner, has_aux, inner_has_aux),
        args,
        None if solver is None else as_solver(solver, inner),
        None if inverse is None else as_inverse(inverse),
        psi0,
        theta0,
        bounds,
        tol,
    )
    return _run(problem, max_steps, callback, throw)


def _run(problem: Outer, max_steps, callback, throw) -> Minimum:
    descent = Descent(problem)
    if not np.isfinite(descent.now.value):
        result = worst(descent.now.h.inner.result, descent.now.h.adjoint.result)
        result = Result.where(failed(result), result, Result.nonfinite)
        return _acted_on(descent.minimum(result), throw)
    result = None
    while result is None:
        steps = len(descent.values)
        result = Result.outer_max_steps_reached if steps > max_steps else descent.advance()
        moved = len(descent.values) > steps
        ended = moved and callback is not None and callback(descent.told()) is True
        if ended:
            result = Result.successful if descent.quiet else Result.not_judged
        if result is None or result == Result.not_judged or descent.exact:
            continue
        descent.look_exactly()
        if result == Result.successful and descent.steep():  # a rough gradient had hidden it
            result = Result.not_judged if ended else None
    h = descent.now.h
    inner = h.inner.result
    if result == Result.successful and inner == Result.not_judged and descent.settled():
        inner = Result.successful  # a gradient of next to nothing may be all error
    result = worst(worst(result, inner), h.adjoint.result)
    return _acted_on(descent.minimum(result), throw)


def _acted_on(found: Minimum, throw: Throw) -> Minimum:
    try:
        act_on(found.result, throw, found.value)
    except RuntimeError as error:  # the work of a long run is not lost
        error.__dict__["minimum"] = found
        raise
    return found
