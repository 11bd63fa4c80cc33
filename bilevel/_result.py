"""What a solve reports: the result enumeration and how it is acted upon."""

import operator
import warnings
from functools import partial, reduce
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Int

from ._varying import vary, varying

Throw = Literal["raise", "warn", "ignore"]
T = TypeVar("T")


class Result(eqx.Enumeration):
    """How a solve ended. Each message names the cause and the remedy.

    `successful` was looked at and is right to its tolerance. `approximate` is short of that by
    choice (`Identity`, `Nystrom`, `CG(truncated=True)`, damping, a number of steps of `SGD` or
    `Neumann`), and of `not_judged` nothing has shown that it is right: neither is a failure, and
    neither is a success. All others are failures.
    """

    successful = "The solve succeeded."
    approximate = (
        "The adjoint is an approximation, as its method was told to stop short of a solution: "
        "`residual` says how far; for an exact one allow more steps, or use `CG()`."
    )
    not_judged = (
        "Nothing has shown that theta solves the inner problem, so the hypergradient "
        "may be biased: `inner.distance` estimates how far it is; for a success allow more steps, "
        "start nearer, tighten the inner solver's `tol`, or compute in float64."
    )
    max_steps_reached = (
        "The linear solve ended, out of steps or out of precision, with a residual above its "
        "tolerance, so the hypergradient is inaccurate: allow more steps, add `damping`, loosen "
        "`rtol`, compute in float64, or choose another inverse Hessian."
    )
    indefinite = (
        "The Hessian of the inner loss has a direction of non-positive curvature, so theta is not "
        "a strict minimum and this method cannot invert it: solve the inner problem further (at a "
        "learning rate that is too large it ends at no minimum), regularise it, add `damping`, or "
        "use `Dense`."
    )
    singular = (
        "The Hessian of the inner loss, or the Jacobian of a root, is singular to working "
        "precision: regularise the inner loss, leave out constraints that say the same, add "
        "`damping`, compute in float64, or take the pseudo-inverse, "
        "`Dense(pseudo_inverse=True)`."
    )
    diverged = (
        "The linear solve ended no nearer to the solution than zero is: lower the rate of `SGD` or "
        "`Neumann` (raise it, if it is tiny), raise the `rank` or the `damping` of `Nystrom`, or "
        "use `CG`."
    )
    degenerate = (
        "A constraint is at its bound with a multiplier of zero, so the solution has a kink there "
        "and no derivative: move psi a little, leave out the constraint if it does not bind, or "
        "keep it away from its bound by a small term in the inner loss."
    )
    no_minimum = (
        "The KKT conditions hold, but the inner loss falls along the constraints, so theta is a "
        "maximum or a saddle: start nearer to the minimum, or add a small convex term to the inner "
        "loss."
    )
    not_stationary = (
        "The inner solver ended away from a minimum, or a root, so its solution is inaccurate and "
        "a hypergradient biased: allow more steps, start nearer, change its settings (a learning "
        "rate, or its `tol`), or, where a rough solution is what you want, pass `throw='ignore'`."
    )
    nonfinite = (
        "NaN or infinity appeared: check the inner and outer losses and their second derivatives "
        "at theta, and lower the learning rate of the inner solver, if it has one; where Adam is "
        "differentiated, give it an `eps_root`, e.g. 1e-16, as a root has no derivative at zero."
    )
    no_window = (
        "A traced `start` leaves no room for the `window` in the solver's steps: draw it from 0 to "
        "`steps - window`."
    )
    outer_max_steps_reached = (
        "The steps of psi ran out while the outer loss was still getting smaller: allow more "
        "`max_steps`, start from the `psi` found so far, or loosen `tol`."
    )
    no_descent = (
        "No step downhill made the outer loss any smaller, so psi is no minimum of it and its "
        "gradient may be wrong: `check_hypergradient` tells; look for losses that are not smooth, "
        "or compute in float64."
    )


def check_throw(throw: str) -> None:
    if throw not in ("raise", "warn", "ignore"):
        raise ValueError(f"throw={throw!r} is not known: choose 'raise', 'warn' or 'ignore'.")


_FAILURES = (
    Result.max_steps_reached,
    Result.indefinite,
    Result.singular,
    Result.diverged,
    Result.degenerate,
    Result.no_minimum,
    Result.not_stationary,
    Result.nonfinite,
    Result.no_window,
    Result.outer_max_steps_reached,
    Result.no_descent,
)


def _code(result: Result) -> Int[Array, ""]:
    """1 + the place of a failure in `_FAILURES`, 0 for none."""
    places = [jnp.where(result == failure, at + 1, 0) for at, failure in enumerate(_FAILURES)]
    return sum(places[1:], places[0])


def failed(result: Result) -> Bool[Array, ""]:
    sound = (Result.successful, Result.approximate, Result.not_judged)
    return ~reduce(operator.or_, [result == each for each in sound])


def act_on(result: Result, throw: Throw, values: T) -> T:
    """Raise or warn if `result` is a failure, as `throw` says; hands `values` back.

    Under `jax.jit` the check happens at run time; what is raised is raised only if `values` is
    used.
    """
    if throw == "ignore":
        return values
    code = _code(result)
    if not isinstance(code, Tracer):
        _tell(throw, np.asarray(code))
        return values
    if throw == "warn":
        jax.debug.callback(partial(_tell, throw), code)
        return values
    nothing = _guard(code)
    # One number goes through the check, and from there to all values: cheaper to compile than to
    # pass them all.
    return jax.tree.map(lambda leaf: leaf + nothing.astype(leaf.dtype), values)


def _tell(throw: Throw, code: Any) -> None:
    # A code, not the result itself: a callback that computes with jax arrays can deadlock.
    failures = np.argwhere(np.asarray(code) > 0)
    if not len(failures):
        return
    message = Result[_FAILURES[int(np.asarray(code)[tuple(failures[0])]) - 1]]
    if np.ndim(code):
        members = ", ".join(str(m[0] if m.size == 1 else tuple(m.tolist())) for m in failures[:8])
        more = ", ..." if len(failures) > 8 else ""
        message += f" (Under vmap: member {members}{more} of {np.size(code)}.)"
    if throw == "raise":
        raise RuntimeError(message)
    warnings.warn(message, RuntimeWarning, stacklevel=3)


@jax.custom_jvp
def _guard(code):
    """0, or an exception at run time where `code` is that of a failure."""
    return _guard_members(code)


@_guard.defjvp
def _guard_jvp(primals, tangents):
    nothing = _guard(*primals)
    return nothing, jnp.zeros_like(nothing)


@custom_vmap
def _guard_members(code):
    axes = varying(code)
    zero = jnp.zeros((), jnp.float32)

    def fail(code):
        return jax.pure_callback(partial(_tell, "raise"), zero, code)

    nothing = lax.cond(jnp.any(code > 0), fail, lambda _: zero, code)
    return vary(nothing, axes)


@_guard_members.def_vmap
def _guard_batch(axis_size, in_batched, code):
    """All members at once, so that the message can name those that failed."""
    del axis_size, in_batched
    if not isinstance(code, Tracer):
        _tell("raise", code)
        return jnp.zeros((), jnp.float32), False
    return _guard_members(code), False


def worst(first: Result, second: Result) -> Result:
    """The first of the two that is a failure; if none is, the first that is not a full success."""
    first_counts = failed(first) | (~failed(second) & (first != Result.successful))
    return Result.where(jnp.asarray(first_counts), first, second)
