from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Scalar

from .._loops import Loop, check_loop, iterate
from .._mistakes import check_steps
from .._result import Result
from .._stationarity import step_to_stop_at
from .._tree import norm, split_key, wide_dtype
from .._types import PyTree
from ..problems import FixedPoint
from ..problems._base import problem_of
from ..problems._condition import AbstractCondition
from ..problems._fixed_point import Fixed, iteration
from ._base import AbstractSolver, Steps, check_tol


class AbstractIteration(AbstractSolver):
    """A solver for fixed points alone."""

    finds: ClassVar[str] = "fixed points"

    def suits(self, inner: Callable[..., Any]) -> bool:
        return isinstance(inner, FixedPoint)

    def condition(self, loss: Any) -> AbstractCondition:
        # A function that is no part of a problem, where the solver is called by itself, is f.
        return Fixed(loss) if problem_of(loss) is None else super().condition(loss)


class FixedPointIteration(AbstractIteration):
    """The plain iteration `theta <- f(theta)` for a fixed point.

    It converges where f is a contraction near the fixed point: where all eigenvalues of its
    Jacobian are of a size below 1, and linearly, with the largest of them. `Anderson` takes fewer
    steps, and `Newton` needs no contraction.

    Attributes:
        max_steps: at most so many steps.
        tol: stop where the norm of `theta - f(theta)` is at most this; a solve that ends above it
            is reported. None: stop where a step is shorter than theta by a factor of 1e-10 in
            float64 and 1e-6 otherwise.
        loop: how the steps run, see `bilevel.inverse_hvp.CG`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel.solvers import FixedPointIteration
        >>> theta, record = FixedPointIteration()(jnp.cos, jnp.ones(2))
        >>> theta
        Array([0.739085, 0.739085], dtype=float32)
    """

    max_steps: int = eqx.field(default=1000, static=True)
    tol: float | None = None
    loop: Loop = eqx.field(default="auto", static=True)

    def __check_init__(self) -> None:
        check_settings(self)

    def solve(
        self, loss: Callable[..., Scalar], theta0: PyTree[Array], key: PRNGKeyArray | None
    ) -> Steps:
        problem, state = _Problem(iteration(loss), theta0), _start(theta0, key, self.max_steps)
        state = iterate(self.step, self.done, problem, state, self.max_steps, self.loop)
        ended = self.done(problem, state) if self.tol is None else True
        result = Result.where(jnp.asarray(ended), Result.successful, Result.not_stationary)
        return Steps(
            state.theta, state.count, state.sizes, result, self.tol, _inverse(state.contraction)
        )

    def step(self, problem: "_Problem", state: "_State") -> "_State":
        key, now = split_key(state.key, 2)
        theta = problem.f(state.theta, now)
        size = norm(optax.tree.sub(theta, state.theta)).astype(state.residual.dtype)
        ratio = jnp.where(state.count > 0, size / state.residual, 0)
        # The ratio of two residuals swings where the slowest eigenvalues are complex.
        contraction = jnp.maximum(ratio, 0.9 * state.contraction).astype(size.dtype)
        sizes = state.sizes.at[state.count].set(size)
        return _State(theta, size, contraction, state.count + 1, sizes, key)

    def done(self, problem: "_Problem", state: "_State") -> Bool[Array, ""]:
        # The residual is that of the point before; the one at theta is smaller by the contraction.
        return settled(state.residual, state.theta, problem.theta0, self.tol)


def check_settings(solver) -> None:
    check_loop(solver.loop)
    check_tol(solver.tol)
    check_steps(solver.max_steps, "max_steps")


def settled(residual: Scalar, theta, theta0, tol: float | Scalar | None) -> Bool[Array, ""]:
    """Whether a residual in units of theta is small enough to stop, or NaN."""
    if tol is None:
        length = jnp.maximum(norm(theta), 1e-3 * norm(optax.tree.sub(theta, theta0)))
        tol = step_to_stop_at(theta0) * length
    return (residual <= jnp.asarray(tol, residual.dtype)) | jnp.isnan(residual)


def _inverse(contraction: Scalar) -> Scalar:
    """How far the solution is from a residual of 1, where each is so many times the last."""
    return 1 / jnp.maximum(1 - contraction, 1e-3)


class _Problem(eqx.Module):
    f: Callable[..., Any]
    theta0: PyTree[Array]


class _State(eqx.Module):
    theta: PyTree[Array]
    residual: Scalar
    contraction: Scalar
    count: Int[Array, ""]
    sizes: Float[Array, " steps"]
    key: PRNGKeyArray | None


@eqx.filter_jit
def _start(theta0, key, steps) -> _State:
    dtype = wide_dtype(theta0)
    most, none = jnp.asarray(jnp.finfo(dtype).max), jnp.zeros((), dtype)
    return _State(theta0, most, none, jnp.asarray(0), jnp.zeros((steps,), dtype), key)
