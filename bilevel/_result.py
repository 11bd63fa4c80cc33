"""What a solve reports: the result enumeration and how it is acted upon."""

import warnings
from typing import Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool

Throw = Literal["raise", "warn", "ignore"]
T = TypeVar("T")


class Result(eqx.Enumeration):
    """How a solve ended. Each message names the cause and the remedy.

    `successful` is right to its tolerance. `approximate` is short of that by choice (`Identity`,
    `Nystrom`, `CG(truncated=True)`, a number of steps of `SGD` or `Neumann`), which is no failure.
    All others are failures.
    """

    successful = "The solve succeeded."
    approximate = (
        "The adjoint is an approximation, as its method was told to stop short of a solution: "
        "`residual` says how far; for an exact one allow more steps, or use `CG()`."
    )
    max_steps_reached = (
        "The linear solve ended, out of steps or out of precision, with a residual above its "
        "tolerance, so the hypergradient is inaccurate: allow more steps, add `damping`, loosen "
        "`rtol`, compute in float64, or choose another inverse Hessian."
    )
    indefinite = (
        "The Hessian of the inner loss has a direction of non-positive curvature, so theta is not "
        "a strict minimum and this method cannot invert it: solve the inner problem further, "
        "regularise it, add `damping`, or use `Dense`."
    )
    singular = (
        "The Hessian of the inner loss is singular to working precision: regularise the inner "
        "loss, add `damping`, or compute in float64."
    )
    diverged = (
        "The linear solve ended no nearer to the solution than zero is: lower the learning rate "
        "of the inverse Hessian (raise it, if it is tiny), or use `CG`."
    )
    not_stationary = (
        "The inner solver ended with a gradient that is not small enough, so its solution is "
        "inaccurate and a hypergradient biased: allow more steps, start nearer, change its "
        "settings, or raise its `tol` if it has one."
    )
    nonfinite = (
        "NaN or infinity appeared: check the inner and outer losses and their second derivatives "
        "at theta, and lower the learning rate of the inner solver."
    )


def check_throw(throw: str) -> None:
    if throw not in ("raise", "warn", "ignore"):
        raise ValueError(f"throw={throw!r} is not known: choose 'raise', 'warn' or 'ignore'.")


def failed(result: Result) -> Bool[Array, ""]:
    return (result != Result.successful) & (result != Result.approximate)


def act_on(result: Result, throw: Throw, values: T) -> T:
    """Raise or warn if `result` is a failure, as `throw` says; hands `values` back.

    Under `jax.jit` the check happens at run time; what is raised is raised only if `values` is
    used.
    """
    if throw == "raise":
        failure = failed(result)
        if isinstance(failure, Tracer):
            return result.error_if(values, failure)
        if failure:
            raise RuntimeError(Result[result])
    if throw == "warn":
        flags = [result == failure for failure in _FAILURES]
        if any(isinstance(flag, Tracer) for flag in flags):
            jax.debug.callback(_warn, *flags)
        else:
            _warn(*flags)
    return values


def worst(first: Result, second: Result) -> Result:
    """The first of the two that is a failure; if none is, the first that is not a full success."""
    first_counts = failed(first) | (~failed(second) & (first != Result.successful))
    return Result.where(jnp.asarray(first_counts), first, second)


_FAILURES = (
    Result.max_steps_reached,
    Result.indefinite,
    Result.singular,
    Result.diverged,
    Result.not_stationary,
    Result.nonfinite,
)


def _warn(*flags) -> None:
    # Flags, not the result itself: a callback that computes with jax arrays can deadlock.
    for failure, flag in zip(_FAILURES, flags, strict=True):
        if flag:
            warnings.warn(Result[failure], RuntimeWarning, stacklevel=2)
