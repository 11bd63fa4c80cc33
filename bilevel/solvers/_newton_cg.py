from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Scalar

from .._inner import evaluate
from .._loops import Loop, check_loop, choose, iterate
from .._mistakes import check_steps
from .._result import Result
from .._stationarity import step_to_stop_at, unless_endless
from .._tree import norm, vdot, wide_dtype
from .._types import PyTree
from ..inverse_hvp import CG, AbstractPreconditioner
from ..problems._stationary import Stationary
from ._base import AbstractMinimiser, Steps, check_tol, refuse_key

MOST_HALVINGS = 20
PATIENCE = 3
"""Steps in a row that make neither loss nor gradient smaller, after which none will."""


class NewtonCG(AbstractMinimiser):
    """Truncated Newton: steps by a few conjugate gradients, and a line search (Dembo and Steihaug,
    "Truncated-Newton algorithms for large-scale unconstrained optimization", 1983).

    For smooth inner losses of any unit, quadratic or not; a direction of negative curvature is
    followed downhill. From near the solution, as in a sequence of problems, one or two steps
    suffice. It is what `bilevel.minimize` solves with.

    Attributes:
        rtol: stop where theta is estimated to be within this distance of the solution, relative to
            its own length. None: 1e-10 in float64 and 1e-6 otherwise.
        max_steps: at most so many steps.
        tol: where given, stop where the norm of the gradient is at most this instead; a solve that
            ends above it is reported.
        forcing: the relative residual of the first linear solve; later ones are solved further, as
            the gradient shrinks.
        cg_max_steps: at most so many conjugate gradients in each of them.
        loop: how the steps run, see `bilevel.inverse_hvp.CG`.
        preconditioner: of the conjugate gradients, as in `bilevel.inverse_hvp.CG`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel.solvers import NewtonCG
        >>> theta, record = NewtonCG()(lambda theta: jnp.sum(jnp.cosh(theta - 3)), jnp.zeros(2))
        >>> theta
        Array([3.00, 3.00], dtype=float32)
    """

    rtol: float | Scalar | None = None
    max_steps: int = eqx.field(default=100, static=True)
    tol: float | None = None
    forcing: float = 0.05
    cg_max_steps: int = eqx.field(default=64, static=True)
    loop: Loop = eqx.field(default="auto", static=True)
    preconditioner: Callable[..., Any] | AbstractPreconditioner | None = None

    def __check_init__(self) -> None:
        check_loop(self.loop)
        check_tol(self.tol)
        check_steps(self.max_steps, "max_steps")
        check_steps(self.cg_max_steps, "cg_max_steps")
        if isinstance(self.rtol, float | int) and self.rtol < 0:
            raise ValueError(f"rtol={self.rtol} is negative: give a relative distance, e.g. 1e-6.")
        if isinstance(self.forcing, float | int) and not 0 < self.forcing < 1:
            raise ValueError(f"forcing={self.forcing} is no relative residual: give e.g. 0.05.")

    def solve(
        self, loss: Callable[..., Scalar], theta0: PyTree[Array], key: PRNGKeyArray | None
    ) -> Steps:
        refuse_key("NewtonCG", key)
        problem, state = _Problem(loss, theta0), _start(loss, theta0, self.max_steps)
        if choose(self.step, problem, state, self.max_steps, self.loop) == "dispatch":
            # The linear solves then dispatch their own steps.
            for _ in range(self.max_steps):
                if bool(self.done(problem, state)):
                    break
                state = self.step(problem, state)
        else:
            state = iterate(self.step, self.done, problem, state, self.max_steps, self.loop)
        ended = self.done(problem, state) if self.tol is None else True
        result = Result.where(jnp.asarray(ended), Result.successful, Result.not_stationary)
        size, first = state.gradient_norm, state.first_norm
        inverse = unless_endless(state.inverse_curvature, size, first, state.theta, theta0)
        return Steps(state.theta, state.count, state.losses, result, self.tol, inverse)

    def step(self, problem: "_Problem", state: "_State") -> "_State":
        theta, dtype = state.theta, state.gradient_norm.dtype
        value, gradient, hvp = Stationary(problem.loss).linearize(theta, None, rederive=False)
        size = norm(gradient).astype(dtype)
        first = jnp.where(state.count == 0, size, state.first_norm)
        forcing = jnp.asarray(self.forcing, dtype)
        forcing = jnp.minimum(forcing, size / jnp.where(first > 0, first, 1))
        forcing = jnp.maximum(forcing, 4 * jnp.finfo(dtype).eps)
        inverse = CG(
            rtol=forcing,
            max_steps=self.cg_max_steps,
            truncated=True,
            loop=self.loop,
            verify=False,  # the next gradient tells
            preconditioner=self.preconditioner,
        )
        solved = inverse(hvp, gradient)
        along = vdot(gradient, solved.v)
        sound = (along > 0) & jnp.isfinite(along)
        # Uphill or nowhere: the gradient, as long as theta.
        length = jnp.maximum(norm(theta), 1).astype(dtype) / jnp.where(size > 0, size, 1)
        scaled = optax.tree.scale(length, gradient)
        direction = optax.tree.where(sound, solved.v, scaled)
        along = jnp.where(sound, along, length * size**2)
        trial = _Trial(problem.loss, theta, direction, value, along)
        found = iterate(_shortened, _accepted, trial, _first_trial(trial), MOST_HALVINGS, self.loop)
        down = found.accepted
        stay = ~down | (size == 0)
        if self.tol is not None:
            stay = stay | (size <= jnp.asarray(self.tol, dtype))
        moved = optax.tree.where(stay, theta, optax.tree.add_scale(theta, -found.share, direction))
        share = jnp.where(stay, 0, found.share)
        step = share * norm(direction).astype(dtype)
        # Relative to theta, or, where that is near 0, to a small part of the way there.
        reach = jnp.maximum(norm(moved), 1e-3 * norm(optax.tree.sub(moved, problem.theta0)))
        relative = step / jnp.maximum(reach.astype(dtype), jnp.finfo(dtype).tiny)
        whole = sound & (share == 1)
        rounding = 4 * jnp.finfo(dtype).eps * jnp.abs(value)
        # A quadratic loss falls by half of that: what it is short of, the step is off by.
        fall = jnp.abs(value - found.value - along / 2) + rounding
        bent = jnp.minimum(relative, 4 * fall / jnp.maximum(along, jnp.finfo(dtype).tiny))
        inexact = jnp.maximum(bent, solved.residual.astype(dtype))
        distance = jnp.where(whole, relative * inexact, relative)
        better = (size < 0.9 * state.smallest) | (state.value - value > rounding)
        better = better | (state.count == 0)
        flattest = norm(solved.v).astype(dtype) / jnp.where(size > 0, size, 1)
        flattest = jnp.where(sound, flattest, state.inverse_curvature)
        # A fall that no curvature ends may go on for ever.
        endless = ~sound & down & (value - found.value > rounding)
        flattest = jnp.where(endless, jnp.finfo(dtype).max, flattest)
        return _State(
            moved,
            value.astype(dtype),
            size,
            first,
            jnp.where(stay, 0, distance),
            flattest,
            jnp.minimum(size, state.smallest),
            jnp.where(better, 0, state.stalled + 1),
            state.count + 1,
            state.losses.at[state.count].set(value.astype(dtype)),
            ~down & (size > 0),
        )

    def done(self, problem: "_Problem", state: "_State") -> Bool[Array, ""]:
        size = state.gradient_norm
        ended = (size == 0) | ~jnp.isfinite(state.value) | state.stuck
        if self.tol is not None:
            return ended | (size <= jnp.asarray(self.tol, size.dtype))
        rtol = step_to_stop_at(problem.theta0) if self.rtol is None else self.rtol
        near = (state.count > 0) & (state.distance <= jnp.asarray(rtol, size.dtype))
        return ended | near | (state.stalled >= PATIENCE)


class _Problem(eqx.Module):
    loss: Callable[..., Scalar]
    theta0: PyTree[Array]


class _State(eqx.Module):
    theta: PyTree[Array]
    value: Scalar
    gradient_norm: Scalar
    first_norm: Scalar
    distance: Scalar
    inverse_curvature: Scalar
    smallest: Scalar
    stalled: Int[Array, ""]
    count: Int[Array, ""]
    losses: Float[Array, " steps"]
    stuck: Bool[Array, ""]


class _Trial(eqx.Module):
    """The line theta - share direction, and what is expected of it."""

    loss: Callable[..., Scalar]
    theta: PyTree[Array]
    direction: PyTree[Array]
    value: Scalar
    along: Scalar


class _Found(eqx.Module):
    share: Scalar
    value: Scalar
    accepted: Bool[Array, ""]


def _shortened(trial: _Trial, found: _Found) -> _Found:
    """Whether the step is accepted at this share (Armijo's condition), or a shorter share."""
    there = optax.tree.add_scale(trial.theta, -found.share, trial.direction)
    value = evaluate(trial.loss, there, None).astype(found.share.dtype)
    before, expected = trial.value.astype(value.dtype), trial.along.astype(value.dtype)
    rounding = 4 * jnp.finfo(value.dtype).eps * jnp.abs(before)
    accepted = value <= before - 1e-4 * found.share * expected + rounding
    return _Found(jnp.where(accepted, found.share, found.share / 4), value, accepted)


def _accepted(trial: _Trial, found: _Found) -> Bool[Array, ""]:
    return found.accepted


def _first_trial(trial: _Trial) -> _Found:
    one = jnp.ones((), trial.along.dtype)
    return _Found(one, trial.value.astype(one.dtype), jnp.asarray(False))


@eqx.filter_jit
def _start(loss, theta0, max_steps) -> _State:
    dtype = wide_dtype(theta0)
    most, none, zero = jnp.asarray(jnp.finfo(dtype).max), jnp.asarray(0), jnp.zeros((), dtype)
    no = jnp.asarray(False)
    return _State(
        theta0, zero, most, zero, most, zero, most, none, none, jnp.zeros((max_steps,), dtype), no
    )
