"""What every inner solver shares: the call, and the record of how it went."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Scalar

from .._condition import AbstractCondition, Stationary, value_and_residual
from .._result import Result, worst
from .._tree import check_form, norm, split_key


class InnerRecord(eqx.Module):
    """How the inner problem was solved.

    Attributes:
        steps: how many steps the solver took; an integer scalar, 0 for a plain callable.
        losses: the inner loss before each step and, last, at theta*; shape (steps + 1,).
        gradient_norm: the norm of the inner gradient at theta*, or of the proximal gradient
            `(theta - prox(theta - s gradient)) / s` of a constrained problem. The implicit
            function theorem asks for 0: what is left is the bias of the hypergradient.
        result: a `Result`.
    """

    steps: Int[Array, ""]
    losses: Float[Array, " losses"]
    gradient_norm: Scalar
    result: Result


class Steps(eqx.Module):
    """What a solver's `solve` hands back: theta, how many steps, the loss before each.

    A gradient at theta whose norm is above `tol`, if that is given, counts as a failure.
    """

    theta: PyTree[Array]
    steps: Int[Array, ""]
    losses: Float[Array, " steps"]
    result: Result
    tol: float | Scalar | None = None


class AbstractSolver(eqx.Module):
    """A way of finding theta* = argmin of a loss. A new one is a subclass with one method."""

    @abc.abstractmethod
    def solve(
        self, loss: Callable[..., Scalar], theta0: PyTree[Array], key: PRNGKeyArray | None
    ) -> Steps:
        """Minimise `loss(theta)`, or `loss(theta, key=...)` with a fresh key at each evaluation.

        Args:
            loss: the inner loss as a function of theta's floating-point arrays.
            theta0: where to start.
            key: given where the loss is stochastic.
        """

    def condition(self, loss: Callable[..., Scalar]) -> AbstractCondition:
        """What is zero at the solution: the gradient, or a fixed point's residual."""
        return Stationary(loss)

    def __call__(
        self, loss: Callable[..., Scalar], theta0: PyTree[Array], key: PRNGKeyArray | None = None
    ) -> tuple[PyTree[Array], InnerRecord]:
        """theta* and an `InnerRecord`."""
        solve_key, last_key = split_key(key, 2)
        steps = find(self, loss, theta0, solve_key)
        found = value_and_residual(self.condition(loss), steps.theta, last_key)
        return steps.theta, record(steps, *found)


def find(solver: AbstractSolver, loss, theta0, key) -> Steps:
    steps = solver.solve(loss, theta0, key)
    check_form(steps.theta, theta0, "the solver returned", "theta", "theta0")
    return steps


@eqx.filter_jit
def record(steps: Steps, value: Scalar, residual: PyTree[Array]) -> InnerRecord:
    """What to record of `steps`, with the loss and the gradient, or residual, where they ended."""
    gradient_norm = norm(residual)
    finite = jnp.isfinite(value) & jnp.isfinite(gradient_norm)
    result = Result.successful
    if steps.tol is not None:
        short = gradient_norm > jnp.asarray(steps.tol, gradient_norm.dtype)
        result = Result.where(short, Result.not_stationary, result)
    result = worst(steps.result, Result.where(finite, result, Result.nonfinite))
    losses = jnp.append(steps.losses, value.astype(steps.losses.dtype))
    return InnerRecord(steps.steps, losses, gradient_norm, result)


class FunctionSolver(AbstractSolver):
    """Any callable `(loss, theta0) -> theta`."""

    function: Callable

    def solve(self, loss, theta0, key):
        if key is not None:
            raise ValueError(
                "key was given, but the solver is a plain callable that cannot pass one to the "
                "inner loss: use a bilevel solver, or close over the key in the inner loss."
            )
        theta = self.function(loss, theta0)
        check_form(theta, theta0, "the solver returned", "theta", "theta0")
        theta = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), theta, theta0)
        empty = jnp.zeros((0,), jnp.result_type(float))
        return Steps(theta, jnp.asarray(0), empty, Result.successful)


def as_solver(solver) -> AbstractSolver:
    if isinstance(solver, AbstractSolver):
        return solver
    if callable(solver):
        return FunctionSolver(solver)
    raise ValueError(
        f"solver={solver!r} is neither a bilevel solver nor callable: pass for example "
        "`solvers.Newton()` or a function `(loss, theta0) -> theta`."
    )


def check_tol(tol: float | Scalar | None) -> None:
    if isinstance(tol, float | int) and tol < 0:
        raise ValueError(f"tol={tol} is negative: give a gradient norm, e.g. 1e-6, or None.")


def default_tol(theta: PyTree[Array]) -> float:
    """1e-8 where all is float64, 1e-3 in lower precision."""
    coarsest = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(theta))
    return 1e-8 if coarsest < 1e-12 else 1e-3


def refuse_key(name: str, key: PRNGKeyArray | None) -> None:
    if key is not None:
        raise ValueError(
            f"key was given, but {name} needs an inner loss that does not change between its "
            "evaluations: use GradientDescent, or close over one key in the inner loss."
        )
