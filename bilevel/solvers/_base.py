"""What every inner solver shares: the call, and the record of how it went."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Scalar

from .._inner import value_and_grad
from .._result import Result, worst
from .._tree import check_form, norm, split_key


class InnerRecord(eqx.Module):
    """How the inner problem was solved.

    Attributes:
        steps: how many steps the solver took; an integer scalar, 0 for a plain callable.
        losses: the inner loss before each step and, last, at theta*; shape (steps + 1,).
        gradient_norm: the norm of the inner gradient at theta*. The implicit function theorem asks
            for 0: what is left is the bias of the hypergradient.
        result: a `Result`.
    """

    steps: Int[Array, ""]
    losses: Float[Array, " losses"]
    gradient_norm: Scalar
    result: Result


class Steps(eqx.Module):
    """What a solver's `solve` hands back: theta, how many steps, the loss before each."""

    theta: PyTree[Array]
    steps: Int[Array, ""]
    losses: Float[Array, " steps"]
    result: Result


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

    def __call__(
        self, loss: Callable[..., Scalar], theta0: PyTree[Array], key: PRNGKeyArray | None = None
    ) -> tuple[PyTree[Array], InnerRecord]:
        """theta* and an `InnerRecord`."""
        solve_key, last_key = split_key(key, 2)
        steps = self.solve(loss, theta0, solve_key)
        check_form(steps.theta, theta0, "the solver returned", "theta", "theta0")
        return steps.theta, _record(loss, steps, last_key)


@eqx.filter_jit
def _record(loss, steps: Steps, key) -> InnerRecord:
    value, gradient = value_and_grad(loss, steps.theta, key)
    gradient_norm = norm(gradient)
    finite = jnp.isfinite(value) & jnp.isfinite(gradient_norm)
    result = worst(steps.result, Result.where(finite, Result.successful, Result.nonfinite))
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
