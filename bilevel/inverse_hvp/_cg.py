from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Int, PyTree, Scalar

from .._inner import product
from .._loops import Loop, check_loop, iterate
from .._result import Result
from .._tree import split_key, vdot
from ._base import AbstractInverseHVP, Iterate, default_rtol
from ._preconditioner import AbstractPreconditioner, make_preconditioner


class CG(AbstractInverseHVP):
    """Conjugate gradients (Hestenes and Stiefel, 1952), for a positive definite Hessian.

    One Hessian-vector product a step. The last sound iterate is kept: in the norm of the Hessian
    it is the nearest to the solution. A direction of non-positive curvature ends the solve with
    `Result.indefinite`.

    Attributes:
        rtol: stop at this relative residual; None: 1e-10 in float64, 1e-5 otherwise.
        max_steps: at most so many steps; a residual above `rtol` after them is reported.
        loop: how the steps run: "loop" (an XLA loop), "unroll", or "dispatch" (one by one from
            Python; where they are traced, unrolled up to 64 of them and looped beyond). "auto"
            dispatches on a CPU where a step holds a convolution (XLA's CPU loops slow those down
            tens of times), and loops otherwise.
        truncated: whether to be content with `max_steps`: what is short of `rtol` after them is
            `Result.approximate`, and no failure.
        preconditioner: `Nystrom(rank=...)`, or a function `v -> M^-1 v` with M positive definite
            and near the (damped) Hessian, where it is ill-conditioned.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel.inverse_hvp import CG
        >>> hessian = jnp.diag(jnp.array([1.0, 2.0, 4.0]))
        >>> CG()(lambda v: hessian @ v, jnp.ones(3)).v
        Array([1.00, 0.50, 0.25], dtype=float32)
    """

    rtol: float | None = None
    max_steps: int = eqx.field(default=256, static=True)
    loop: Loop = eqx.field(default="auto", static=True)
    truncated: bool = eqx.field(default=False, static=True)
    preconditioner: Callable | AbstractPreconditioner | None = None

    @property
    def symmetric_only(self):
        return True

    def __check_init__(self):
        check_loop(self.loop)
        if self.max_steps < 1:
            raise ValueError(f"max_steps={self.max_steps} leaves no step to take: give 1 or more.")
        if self.rtol is not None and self.rtol < 0:
            raise ValueError(f"rtol={self.rtol} is negative: give a relative residual, e.g. 1e-6.")

    @property
    def traceable(self):
        return self.loop != "dispatch"

    def tolerance(self, g):
        return None if self.truncated else self._rtol(g)

    def _rtol(self, g):
        return default_rtol(g) if self.rtol is None else self.rtol

    def solve(self, hvp, g, v0, key):
        precondition = make_preconditioner(self.preconditioner, hvp, g, key)
        operands = (hvp, precondition, g, self._rtol(g), self.max_steps)
        state = _start(precondition, g, v0, key, self._rtol(g))
        products = self.max_steps + (1 if v0 is None else 2)
        state = iterate(_step, _done, operands, state, products, self.loop)
        return _finish(state)


class _State(eqx.Module):
    v: PyTree[Array]
    residual: PyTree[Array]
    direction: PyTree[Array]
    residual_squared: Scalar
    preconditioned_squared: Scalar
    sound_v: PyTree[Array]
    steps: Int[Array, ""]
    indefinite: Bool[Array, ""]
    broken: Bool[Array, ""]
    checking: Bool[Array, ""]
    done: Bool[Array, ""]
    key: Any


@eqx.filter_jit
def _start(precondition, g, v0, key, rtol) -> _State:
    no, zero = jnp.asarray(False), optax.tree.zeros_like(g)
    squared = vdot(g, g)
    direction, preconditioned = _steepest(precondition, g, squared)
    done = squared <= jnp.asarray(rtol, squared.dtype) ** 2
    start = zero if v0 is None else v0
    warm = jnp.asarray(v0 is not None)
    return _State(
        zero, g, direction, squared, preconditioned, start, jnp.asarray(0), no, no, warm, done, key
    )


def _steepest(precondition, residual, squared):
    if precondition is None:
        return residual, squared
    direction = precondition(residual)
    return direction, vdot(residual, direction)


def _step(operands, state: _State) -> _State:
    """A conjugate gradient step, or, before and after them all, the residual computed afresh.

    Both are one product, so that the program holds only one.
    """
    hvp, precondition, g, rtol, max_steps = operands
    key, now = split_key(state.key, 2)
    at = optax.tree.where(state.checking, state.sound_v, state.direction)
    image = product(hvp, at, now)
    after = lax.cond(
        state.checking,
        lambda: _check(precondition, g, rtol, state, image),
        lambda: _advance(precondition, rtol, max_steps, state, image),
    )
    return eqx.tree_at(lambda s: s.key, after, key, is_leaf=lambda leaf: leaf is None)


def _check(precondition, g, rtol, state: _State, image) -> _State:
    residual = optax.tree.sub(g, image)
    squared = vdot(residual, residual)
    first = state.steps == 0
    # A warm start that is worse than zero, or NaN, is none.
    worse = first & ~(squared <= state.residual_squared)
    v, residual, squared = optax.tree.where(
        worse, (state.v, state.residual, state.residual_squared), (state.sound_v, residual, squared)
    )
    direction, preconditioned = _steepest(precondition, residual, squared)
    done = ~first | (squared <= jnp.asarray(rtol, squared.dtype) ** 2)
    no = jnp.asarray(False)
    return _State(
        v, residual, direction, squared, preconditioned, v, state.steps,
        state.indefinite, state.broken, no, done, state.key,
    )  # fmt: skip


def _advance(precondition, rtol, max_steps, state: _State, along) -> _State:
    curvature = vdot(state.direction, along)
    indefinite = curvature <= 0
    length = state.preconditioned_squared / jnp.where(indefinite, 1, curvature)
    length = jnp.where(indefinite, 0, length).astype(curvature.dtype)
    v = optax.tree.add_scale(state.v, length, state.direction)
    residual = optax.tree.add_scale(state.residual, -length, along)
    squared = vdot(residual, residual)
    steepest, preconditioned = _steepest(precondition, residual, squared)
    ratio = preconditioned / state.preconditioned_squared
    steps = state.steps + 1
    broken = ~jnp.isfinite(squared)
    ended = (squared <= jnp.asarray(rtol, squared.dtype) ** 2) | indefinite | broken
    if precondition is not None:  # one that is not positive definite leads nowhere
        ended = ended | ~(preconditioned > 0)
    return _State(
        v,
        residual,
        optax.tree.add_scale(steepest, ratio, state.direction),
        squared,
        preconditioned,
        # Every step with positive curvature comes nearer in the norm of H, though the residual may
        # rise above that of v = 0 for a while: the last such iterate is the best.
        optax.tree.where(broken, state.sound_v, v),
        steps,
        indefinite,
        broken,
        ended | (steps >= max_steps),
        state.done,
        state.key,
    )


def _done(operands, state: _State):
    return state.done


@eqx.filter_jit
def _finish(state: _State) -> Iterate:
    result = Result.where(state.indefinite, Result.indefinite, Result.successful)
    result = Result.where(state.broken, Result.nonfinite, result)
    return Iterate(state.sound_v, state.steps, result, rest=state.residual)
