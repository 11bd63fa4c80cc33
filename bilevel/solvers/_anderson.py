from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Scalar

from .._loops import Loop, iterate
from .._result import Result
from .._tree import norm
from .._types import PyTree
from ..problems._fixed_point import iteration
from ._base import Steps, refuse_key
from ._fixed_point import AbstractIteration, check_settings, settled

WORSE = 10.0
"""A residual so many times the smallest one ends a history that leads astray."""


class Anderson(AbstractIteration):
    """Anderson acceleration of `theta <- f(theta)` (Anderson, 1965; Walker and Ni, 2011, type II).

    With the residuals `r = f(theta) - theta`, their last m differences `dR` and those of theta,
    `dX`, a step is

        theta + b r - (dX + b dR) c        where c minimises |r - dR c|

    which for a linear f is GMRES in disguise. It takes fewer steps than the plain iteration, and
    often converges where that does not. It keeps 2 m copies of theta. The point with the smallest
    residual is kept, and where the residual grows tenfold above it, the history is dropped.

    Attributes:
        max_steps: at most so many steps, one evaluation of f each.
        tol: stop where the norm of `theta - f(theta)` is at most this; a solve that ends above it
            is reported. None: stop where it is smaller than theta by a factor of 1e-10 in float64
            and 1e-6 otherwise.
        memory_size: m, how many differences are kept.
        mixing: b, in (0, 1]: less than 1 damps the steps.
        loop: how the steps run, see `bilevel.inverse_hvp.CG`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel.solvers import Anderson
        >>> theta, record = Anderson()(lambda theta: 3 - 1.5 * theta, jnp.zeros(2))
        >>> theta
        Array([1.20, 1.20], dtype=float32)
    """

    max_steps: int = eqx.field(default=200, static=True)
    tol: float | None = None
    memory_size: int = eqx.field(default=5, static=True)
    mixing: float | Scalar = 1.0
    loop: Loop = eqx.field(default="auto", static=True)

    def __check_init__(self) -> None:
        check_settings(self)
        if self.memory_size < 1:
            raise ValueError(
                f"memory_size={self.memory_size} keeps nothing to accelerate by: give 1 or more, "
                "or use `FixedPointIteration`."
            )
        if isinstance(self.mixing, float | int) and not 0 < self.mixing <= 1:
            raise ValueError(f"mixing={self.mixing} is not in (0, 1]: give for example 1.0.")

    def solve(
        self, loss: Callable[..., Scalar], theta0: PyTree[Array], key: PRNGKeyArray | None
    ) -> Steps:
        refuse_key("Anderson", key)
        problem = _Problem(iteration(loss), theta0)
        state = _start(problem, self.max_steps, self.memory_size)
        state = iterate(self.step, self.done, problem, state, self.max_steps, self.loop)
        ended = self.done(problem, state) if self.tol is None else True
        result = Result.where(jnp.asarray(ended), Result.successful, Result.not_stationary)
        theta = ravel_pytree(theta0)[1](state.best)
        return Steps(theta, state.count, state.sizes, result, self.tol, state.inverse)

    def step(self, problem: "_Problem", state: "_State") -> "_State":
        unravel, mixing = ravel_pytree(problem.theta0)[1], jnp.asarray(self.mixing, state.x.dtype)
        residual = ravel_pytree(problem.f(unravel(state.x)))[0] - state.x
        size = norm(residual)
        astray = ~(size <= WORSE * state.smallest)
        slot = (state.count - 1) % self.memory_size
        known = state.count > 0
        moved = jnp.where(known, state.x - state.before, 0)
        turned = jnp.where(known, residual - state.residual, 0)
        moves = jnp.where(known, state.moves.at[slot].set(moved), state.moves)
        turns = jnp.where(known, state.turns.at[slot].set(turned), state.turns)
        moves, turns = jnp.where(astray, 0, moves), jnp.where(astray, 0, turns)
        c = _least_squares(turns, residual)
        ahead = mixing * residual - (moves + mixing * turns).T @ c
        better = size < state.smallest
        best = jnp.where(better, state.x, state.best)
        x = jnp.where(astray, state.best, state.x) + jnp.where(astray, 0, ahead)
        # From the best point a plain step leads on, as it did before.
        x = jnp.where(astray, state.best + mixing * state.best_residual, x)
        length = jnp.where(size > 0, norm(ahead) / jnp.where(size > 0, size, 1), state.inverse)
        return _State(
            x,
            jnp.where(astray, state.best, state.x),
            jnp.where(astray, state.best_residual, residual),
            moves,
            turns,
            best,
            jnp.where(better, residual, state.best_residual),
            jnp.minimum(size, state.smallest),
            jnp.where(better, jnp.maximum(length, 1), state.inverse).astype(size.dtype),
            state.count + 1,
            state.sizes.at[state.count].set(size),
        )

    def done(self, problem: "_Problem", state: "_State") -> Bool[Array, ""]:
        theta0 = ravel_pytree(problem.theta0)[0]
        return settled(state.smallest, state.best, theta0, self.tol) | ~jnp.all(
            jnp.isfinite(state.x)
        )


def _least_squares(rows: Float[Array, "m n"], target: Float[Array, " n"]) -> Float[Array, " m"]:
    """c such that `rows.T @ c` is nearest to the target; rows of zeros, and such as others make up
    to working precision, are not used.
    """
    lengths = jnp.sqrt(jnp.sum(rows**2, axis=1))
    unit = rows / jnp.where(lengths > 0, lengths, 1)[:, None]
    values, vectors = jnp.linalg.eigh(unit @ unit.T)
    usable = values > 10 * len(values) * jnp.finfo(values.dtype).eps
    along = vectors.T @ (unit @ target)
    c = vectors @ jnp.where(usable, along / jnp.where(usable, values, 1), 0)
    return c / jnp.where(lengths > 0, lengths, 1)


class _Problem(eqx.Module):
    f: Callable[..., Any]
    theta0: PyTree[Array]


class _State(eqx.Module):
    """`x` is next, after `before`, whose residual is `residual`."""

    x: Float[Array, " n"]
    before: Float[Array, " n"]
    residual: Float[Array, " n"]
    moves: Float[Array, "m n"]
    turns: Float[Array, "m n"]
    best: Float[Array, " n"]
    best_residual: Float[Array, " n"]
    smallest: Scalar
    inverse: Scalar
    count: Int[Array, ""]
    sizes: Float[Array, " steps"]


@eqx.filter_jit
def _start(problem, steps, memory_size) -> _State:
    x = ravel_pytree(problem.theta0)[0]
    none, most = jnp.zeros_like(x), jnp.asarray(jnp.finfo(x.dtype).max)
    history = jnp.zeros((memory_size, x.size), x.dtype)
    sizes = jnp.zeros((steps,), x.dtype)
    one = jnp.ones((), x.dtype)
    return _State(
        x, none, none, history, history, x, none, most / WORSE, one, jnp.asarray(0), sizes
    )
