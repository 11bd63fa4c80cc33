"""What every inner solver shares: the call, and the record of how it went."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, Scalar

from .._inner import InnerLoss, in_wide_type
from .._point import Multipliers, primal
from .._result import Result, worst
from .._stationarity import exceeds, near_enough, relative_distance
from .._traced_loss import traced_now
from .._tree import (
    cast,
    check_form,
    dtypes_of,
    is_wide,
    norm,
    split_key,
    wide_dtype,
    widen,
)
from .._types import PyTree
from .._varying import as_shard_map_allows
from ..problems._base import AbstractProblem, condition_of, problem_of
from ..problems._condition import AbstractCondition, value_and_residual


class InnerRecord(eqx.Module):
    """How the inner problem was solved.

    Attributes:
        steps: how many steps the solver took; an integer scalar, 0 for a plain callable.
        losses: the inner loss before each step and, last, at theta*; shape (most steps + 1,),
            that at theta* also where fewer steps were taken. Of a root or a fixed point, which has
            no loss, the norm of its residual.
        gradient_norm: the norm of the inner gradient at theta*, of the proximal gradient
            `(theta - prox(theta - s gradient)) / s`, or of the residual of one of
            `bilevel.problems`: F, `theta - f(theta)`, or that of the KKT conditions. The implicit
            function theorem asks for 0: what is left is the bias of the hypergradient.
        result: a `Result`.
        distance: an estimate of how far theta is from the solution, relative to theta, free of
            the loss's units: the gradient norm times the inverse of the smallest curvature that
            the solver or the adjoint has met. None where neither has.
        aux: what `inner` returned beside its value at theta* (None without `inner_has_aux`).
        multipliers: those of a `Constrained` problem (None for any other).
        measure: "gradient", or "residual" for one of `bilevel.problems`.
    """

    steps: Int[Array, ""]
    losses: Float[Array, " losses"]
    gradient_norm: Scalar
    result: Result
    distance: Scalar | None = None
    aux: Any = None
    multipliers: Multipliers | None = None
    measure: str = eqx.field(default="gradient", static=True)


class Steps(eqx.Module):
    """What a solver's `solve` hands back: theta, how many steps, the loss before each.

    `result` is the solver's own word: `successful` where it looked at where it ended,
    `not_judged` where it did not. A gradient at theta whose norm is above `tol`, if that is given,
    counts as a failure. `inverse_curvature` is a length over a gradient norm: how far a gradient
    of norm 1 is from the minimum, as far as the solver can tell. A gradient that is larger than
    `first_norm`, that of the first one, and not near the minimum, is a failure, too.
    """

    theta: PyTree[Array]
    steps: Int[Array, ""]
    losses: Float[Array, " steps"]
    result: Result
    tol: float | Scalar | None = None
    inverse_curvature: Scalar | None = None
    first_norm: Scalar | None = None


class AbstractSolver(eqx.Module):
    """A way of finding theta*: the minimum of a loss, or the solution of one of `bilevel.problems`.
    A new one is a subclass with one method.
    """

    finds: ClassVar[str] = "solutions"
    """What it is for, in the sentence for those who pass what does not suit it."""

    def purpose(self) -> str:
        return self.finds

    @abc.abstractmethod
    def solve(
        self, loss: Callable[..., Scalar], theta0: PyTree[Array], key: PRNGKeyArray | None
    ) -> Steps:
        """Minimise `loss(theta)`, or `loss(theta, key=...)` with a fresh key at each evaluation.

        Where the inner problem is one of `bilevel.problems`, `self.condition(loss)` has its
        residual, `value_and_residual(theta, key)`, and that residual's Jacobian, `linearize`.

        Args:
            loss: the inner loss as a function of theta's floating-point arrays; F of a `Root`, f
                of a `FixedPoint`.
            theta0: where to start.
            key: given where the loss is stochastic.
        """

    def condition(self, loss: Callable[..., Scalar]) -> AbstractCondition:
        """What is zero at the solution: the gradient of a loss, or the residual of a problem."""
        return condition_of(loss)

    def suits(self, inner: Callable[..., Any]) -> bool:
        """Whether it can solve `inner`: a loss, or one of `bilevel.problems`."""
        return True

    def __call__(
        self, loss: Callable[..., Scalar], theta0: PyTree[Array], key: PRNGKeyArray | None = None
    ) -> tuple[PyTree[Array], InnerRecord]:
        """theta* and an `InnerRecord`."""
        solve_key, last_key = split_key(key, 2)
        if not isinstance(loss, InnerLoss):
            loss = traced_now(loss, "loss(theta)", theta0, **({} if key is None else {"key": key}))
        steps = find(self, loss, theta0, solve_key)
        condition = self.condition(loss)
        found = value_and_residual(condition, steps.theta, last_key)
        return steps.theta, completed(record(steps, *found), condition, steps.theta, last_key)


def find(solver: AbstractSolver, loss, theta0, key) -> Steps:
    wide = is_wide(theta0)
    with as_shard_map_allows(solver, (loss, theta0)):
        if wide:
            steps = solver.solve(loss, theta0, key)
        else:  # solvers do their arithmetic in one type
            steps = solver.solve(in_wide_type(loss, theta0), widen(theta0), key)
    check_form(steps.theta, theta0, "the solver returned", "theta", "theta0")
    if wide:
        return steps
    return eqx.tree_at(lambda s: s.theta, steps, cast(steps.theta, dtypes_of(theta0)))


@eqx.filter_jit
def record(steps: Steps, value: Scalar, residual: PyTree[Array]) -> InnerRecord:
    """What to record of `steps`, with the loss and the gradient, or residual, where they ended."""
    gradient_norm, distance = norm(residual), None
    result = steps.result
    if steps.inverse_curvature is not None:
        distance = relative_distance(gradient_norm, steps.inverse_curvature, primal(steps.theta))
        near = distance <= near_enough(steps.theta)
        # What the solver held to be short may be near enough, and the other way round.
        result = Result.where((result == Result.not_stationary) & near, Result.successful, result)
        vague = (result == Result.successful) & ~near
        result = Result.where(vague, Result.not_judged, result)
        if steps.first_norm is not None:
            grew = exceeds(gradient_norm, steps.first_norm) & ~near
            result = worst(result, Result.where(grew, Result.not_stationary, Result.successful))
    if steps.tol is not None:
        short = exceeds(gradient_norm, steps.tol)
        unjudged = result == Result.not_judged
        result = Result.where(unjudged, Result.successful, result)
        result = Result.where(short, Result.not_stationary, result)
    finite = jnp.isfinite(value) & jnp.isfinite(gradient_norm)
    result = worst(result, Result.where(finite, Result.successful, Result.nonfinite))
    losses = jnp.append(steps.losses, jnp.zeros((), steps.losses.dtype))
    at_theta = jnp.arange(losses.size) >= jnp.minimum(steps.steps, steps.losses.size)
    losses = jnp.where(at_theta, value.astype(losses.dtype), losses)
    return InnerRecord(steps.steps, losses, gradient_norm, result, distance)


@eqx.filter_jit
def completed(
    record: InnerRecord, condition: AbstractCondition, theta: PyTree[Array], key: Any
) -> InnerRecord:
    """The record with what else the condition tells at theta."""
    loss, problem = condition.loss, problem_of(condition.loss)
    found: dict[str, Any] = {"measure": condition.measure}
    if isinstance(loss, InnerLoss) and loss.has_aux:
        found["aux"] = loss.with_aux(theta, key)[1]
    if problem is not None:
        found["multipliers"] = problem.multipliers(loss, theta)
    if (descends := condition.descends(theta)) is not None:
        saddle = Result.where(descends, Result.no_minimum, Result.successful)
        found["result"] = worst(record.result, saddle)
    return dataclasses.replace(record, **found)


class AbstractMinimiser(AbstractSolver):
    """A solver for losses alone."""

    finds: ClassVar[str] = "minima of a loss"

    def suits(self, inner: Callable[..., Any]) -> bool:
        return not isinstance(inner, AbstractProblem)


class FunctionSolver(AbstractSolver):
    """Any callable `(loss, theta0) -> theta`."""

    function: Callable[..., Any]

    def solve(
        self, loss: Callable[..., Scalar], theta0: PyTree[Array], key: PRNGKeyArray | None
    ) -> Steps:
        if key is not None:
            raise ValueError(
                "key was given, but the solver is a plain callable that cannot pass one to the "
                "inner loss: use a bilevel solver, or close over the key in the inner loss."
            )
        problem = problem_of(loss)
        theta = self.function(loss if problem is None else problem.given(loss), theta0)
        check_form(theta, theta0, "the solver returned", "theta", "theta0")
        theta = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), theta, theta0)
        empty = jnp.zeros((0,), wide_dtype(theta0))
        return Steps(theta, jnp.asarray(0), empty, Result.not_judged)


def as_solver(solver, inner: Callable[..., Any] | None = None) -> AbstractSolver:
    """`solver`, which has to suit `inner`, if that is given."""
    solver = _as_solver(solver)
    if inner is not None and not solver.suits(inner):
        is_loss = not isinstance(inner, AbstractProblem)
        what = "a loss to minimise" if is_loss else f"a {type(inner).__name__}"
        remedy = (
            "`LBFGS()`, `Newton()` or `GradientDescent(...)`, or give one of `bilevel.problems` as "
            "inner"
            if is_loss
            else inner.remedy
        )
        raise ValueError(
            f"solver={type(solver).__name__} finds {solver.purpose()}, and inner is {what}: pass "
            f"{remedy}."
        )
    return solver


_WITHOUT_SETTINGS = ("Newton", "LBFGS", "FixedPointIteration", "Anderson", "InteriorPoint")


def _as_solver(solver) -> AbstractSolver:
    if isinstance(solver, AbstractSolver):
        return solver
    if isinstance(solver, type):
        made = "()" if solver.__name__ in _WITHOUT_SETTINGS else "(...)"
        raise ValueError(
            f"solver={solver.__name__} is a class: pass an instance, `{solver.__name__}{made}`."
        )
    if isinstance(solver, optax.GradientTransformation):
        raise ValueError(
            "solver is an optax optimiser, which is told neither the loss nor how many steps: pass "
            "`solvers.GradientDescent(optimiser, steps=100)`."
        )
    if callable(solver):
        return FunctionSolver(solver)
    raise ValueError(
        f"solver={solver!r} is neither a bilevel solver nor callable: pass for example "
        "`solvers.Newton()` or a function `(loss, theta0) -> theta`."
    )


def check_tol(tol: float | Scalar | None) -> None:
    if isinstance(tol, float | int) and tol < 0:
        raise ValueError(f"tol={tol} is negative: give a gradient norm, e.g. 1e-6, or None.")


def refuse_key(name: str, key: PRNGKeyArray | None) -> None:
    if key is not None:
        raise ValueError(
            f"key was given, but {name} needs an inner loss that does not change between its "
            "evaluations: use GradientDescent, or close over one key in the inner loss."
        )
