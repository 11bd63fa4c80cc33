from collections.abc import Callable
from functools import lru_cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Scalar

from .._inner import evaluate, value_and_grad
from .._loops import Loop, check_loop, iterate
from .._mistakes import check_steps
from .._result import Result
from .._stationarity import inverse_unit, step_to_stop_at, unless_endless
from .._tree import cast, dtypes_of, multiply, norm, vdot, wide_dtype
from .._types import PyTree
from ._base import AbstractMinimiser, Steps, check_tol, refuse_key

PATIENCE = 10
"""Steps in a row without a smaller gradient or loss after which there is none to be had."""


class LBFGS(AbstractMinimiser):
    """optax's limited-memory BFGS with its zoom line search, until a tolerance is reached.

    For smooth inner losses that are not stochastic; their unit does not matter. The line search
    is an XLA loop, which is slow on a CPU where the loss holds a convolution.

    Attributes:
        max_steps: at most so many steps.
        tol: stop where the norm of the gradient is at most this; a solve that ends above it is
            reported. None: stop where the next step, as the approximate Hessian has it, is
            shorter than theta by a factor of 1e-10 in float64 and 1e-6 otherwise, or where
            neither the gradient nor the loss gets any smaller.
        memory_size: how many past gradients the approximate Hessian is made of.
        loop: how the steps run, see `bilevel.inverse_hvp.CG`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel.solvers import LBFGS
        >>> theta, record = LBFGS()(lambda theta: jnp.sum((theta - 3) ** 4), jnp.zeros(2))
        >>> bool(record.gradient_norm < 1e-3)
        True
    """

    max_steps: int = eqx.field(default=200, static=True)
    tol: float | None = None
    memory_size: int = eqx.field(default=10, static=True)
    loop: Loop = eqx.field(default="auto", static=True)

    def __check_init__(self) -> None:
        check_loop(self.loop)
        check_tol(self.tol)
        check_steps(self.max_steps, "max_steps")

    def solve(
        self, loss: Callable[..., Scalar], theta0: PyTree[Array], key: PRNGKeyArray | None
    ) -> Steps:
        refuse_key("LBFGS", key)
        problem, state = (
            _Problem(loss, theta0),
            _start(loss, theta0, self.max_steps, self.memory_size),
        )
        state = iterate(self.step, self.done, problem, state, self.max_steps, self.loop)
        ended = self.done(problem, state) if self.tol is None else True
        result = Result.where(jnp.asarray(ended), Result.successful, Result.not_stationary)
        size, first = state.gradient_norm, 1 / state.unit
        inverse = unless_endless(state.inverse_curvature, size, first, state.theta, theta0)
        return Steps(state.theta, state.count, state.losses, result, self.tol, inverse)

    def step(self, problem: "_Problem", state: "_State") -> "_State":
        loss, unit, dtypes = problem.loss, state.unit, dtypes_of(state.theta)

        def value_of(theta):  # the line search goes to where float64 takes it, if that is enabled
            return unit * evaluate(loss, cast(theta, dtypes), None).astype(unit.dtype)

        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            direction, precondition = _preconditioner(self.memory_size).update(
                state.gradient, state.precondition, state.theta
            )
            updates, found = _line_search().update(
                multiply(direction, -jnp.ones_like(unit)),
                state.search,
                state.theta,
                value=state.value,
                grad=state.gradient,
                value_fn=value_of,
            )
        search: Any = found
        theta = optax.apply_updates(state.theta, updates)
        value, gradient = search.value.astype(unit.dtype), cast(search.grad, dtypes)
        # Of the approximate Hessian along the gradient, and of the Hessian along the last step.
        along = vdot(updates, optax.tree.sub(gradient, state.gradient))
        curved = jnp.where(along > 0, vdot(updates, updates) / jnp.where(along > 0, along, 1), 0)
        inverse = jnp.where(state.count > 0, norm(direction) / norm(state.gradient), 0)
        size = norm(gradient) / unit
        rounding = 4 * jnp.finfo(unit.dtype).eps * jnp.abs(value)
        fell = state.value - value > rounding
        better = (size < 0.9 * state.smallest) | fell
        # A fall that no curvature ends may go on for ever.
        inverse = jnp.maximum(inverse, curved).astype(unit.dtype)
        inverse = jnp.where((along <= 0) & fell, jnp.finfo(unit.dtype).max, unit * inverse)
        losses = state.losses.at[state.count].set(state.value / unit)
        return _State(
            theta,
            gradient,
            value,
            precondition,
            search,
            state.count + 1,
            losses,
            size,
            norm(direction),
            inverse,
            jnp.minimum(size, state.smallest),
            jnp.where(better, 0, state.stalled + 1),
            state.unit,
        )

    def done(self, problem: "_Problem", state: "_State") -> Bool[Array, ""]:
        theta0, tol = problem.theta0, self.tol
        size = state.gradient_norm
        ended = (size == 0) | ~jnp.isfinite(size)
        if tol is not None:
            return ended | (size <= jnp.asarray(tol, size.dtype))
        # Relative to theta, or, where that is near 0, to a small part of the way there.
        length = jnp.maximum(norm(state.theta), 1e-3 * norm(optax.tree.sub(state.theta, theta0)))
        short = state.step <= step_to_stop_at(theta0) * length.astype(state.step.dtype)
        return ended | short | (state.stalled >= PATIENCE)


class _Problem(eqx.Module):
    loss: Callable[..., Scalar]
    theta0: PyTree[Array]


class _State(eqx.Module):
    theta: PyTree[Array]
    gradient: PyTree[Array]
    value: Scalar
    precondition: PyTree
    search: PyTree
    count: Int[Array, ""]
    losses: Float[Array, " steps"]
    gradient_norm: Scalar
    step: Scalar
    inverse_curvature: Scalar
    smallest: Scalar
    stalled: Int[Array, ""]
    unit: Scalar


@lru_cache
def _preconditioner(memory_size):
    return optax.scale_by_lbfgs(memory_size)


@lru_cache
def _line_search():
    return optax.scale_by_zoom_linesearch(max_linesearch_steps=20, initial_guess_strategy="one")


@eqx.filter_jit
def _start(loss, theta0, max_steps, memory_size) -> _State:
    dtype = wide_dtype(theta0)
    value, gradient = value_and_grad(loss, theta0, None)
    size = norm(gradient)
    # The line search begins with steps of the gradient's length: no loss is too flat for that.
    unit = inverse_unit(size).astype(dtype)
    with jax.numpy_dtype_promotion("standard"):
        precondition = _preconditioner(memory_size).init(theta0)
        search = _line_search().init(theta0)
    most, none = jnp.asarray(jnp.finfo(dtype).max), jnp.asarray(0)
    return _State(
        theta0,
        multiply(gradient, unit),
        unit * value.astype(dtype),
        precondition,
        search,
        none,
        jnp.zeros((max_steps,), dtype),
        size.astype(dtype),
        most,
        jnp.zeros((), dtype),
        size.astype(dtype),
        none,
        unit,
    )
