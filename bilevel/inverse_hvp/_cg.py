from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int, PRNGKeyArray, Scalar

from .._loops import Loop, check_loop, iterate
from .._result import Result
from .._tree import split_key, vdot
from .._types import PyTree
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
        verify: whether the residual is computed afresh in the end, for one product more; if not,
            that of the recurrence is reported, which rounding makes drift.
        preconditioner: `Nystrom(rank=...)`, or a function `v -> M^-1 v` with M positive definite
            and near the (damped) Hessian, where it is ill-conditioned.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel.inverse_hvp import CG
        >>> hessian = jnp.diag(jnp.array([1.0, 2.0, 4.0]))
        >>> CG()(lambda v: hessian @ v, jnp.ones(3)).v
        Array([1.00, 0.50, 0.25], dtype=float32)
    """

    rtol: float | Scalar | None = None
    max_steps: int = eqx.field(default=256, static=True)
    loop: Loop = eqx.field(default="auto", static=True)
    truncated: bool = eqx.field(default=False, static=True)
    preconditioner: Callable[..., Any] | AbstractPreconditioner | None = None
    verify: bool | Bool[Array, ""] = True

    @property
    def symmetric_only(self) -> bool:
        return True

    def __check_init__(self) -> None:
        check_loop(self.loop)
        if self.max_steps < 1:
            raise ValueError(f"max_steps={self.max_steps} leaves no step to take: give 1 or more.")
        if isinstance(self.rtol, float | int) and self.rtol < 0:
            raise ValueError(f"rtol={self.rtol} is negative: give a relative residual, e.g. 1e-6.")

    @property
    def traceable(self) -> bool:
        return self.loop != "dispatch"

    def tolerance(self, g: PyTree[Array]) -> float | Scalar | None:
        return None if self.truncated else self._rtol(g)

    def _rtol(self, g, hvp=None):
        return default_rtol(g, hvp) if self.rtol is None else self.rtol

    def solve(
        self,
        hvp: Callable[..., PyTree[Array]],
        g: PyTree[Array],
        v0: PyTree[Array] | None,
        key: PRNGKeyArray | None,
    ) -> Iterate:
        precondition = make_preconditioner(self.preconditioner, hvp, g, key)
        system = _System(hvp, g, precondition, self._rtol(g, hvp), v0 is not None)
        products = self.max_steps + (2 if system.warm else 1)
        state = iterate(self.step, self.done, system, _start(system, v0, key), products, self.loop)
        return _finish(state)

    def step(self, system: "_System", state: "_State") -> "_State":
        """A conjugate gradient step or, before and after them all, the residual computed afresh.

        Both are one product, so that the program holds one only: it is what takes long to compile.
        """
        g, precondition = system.g, system.precondition
        key, now = split_key(state.key, 2)
        check, first = state.checking, state.steps == 0
        image = system.hvp(optax.tree.where(check, state.v, state.direction), now)
        curvature = vdot(state.direction, image)
        indefinite = ~check & (curvature <= 0)
        length = state.preconditioned_squared / jnp.where(indefinite | check, 1, curvature)
        length = jnp.where(indefinite, 0, jnp.where(check, 1, length)).astype(curvature.dtype)
        start = optax.tree.where(check, g, state.residual)
        residual = optax.tree.add_scale(start, -length, image)
        squared = vdot(residual, residual)
        broken = ~check & ~jnp.isfinite(squared)
        # Every step with positive curvature comes nearer in the norm of H, though the residual may
        # rise above that of v = 0 for a while: the last such iterate is the best.
        moved = optax.tree.add_scale(state.v, length, state.direction)
        v = optax.tree.where(check | broken, state.v, moved)
        if system.warm:  # a start that is worse than zero, or NaN, is none
            worse = check & first & ~(squared <= state.residual_squared)
            v = optax.tree.where(worse, optax.tree.zeros_like(g), v)
            residual = optax.tree.where(worse, g, residual)
            squared = jnp.where(worse, state.residual_squared, squared)
        steepest, preconditioned = _steepest(precondition, residual, squared)
        ratio = jnp.where(check, 0, preconditioned / state.preconditioned_squared)
        steps = state.steps + jnp.where(check, 0, 1)
        reached, verify = _reached(squared, system.rtol), jnp.asarray(self.verify)
        ended = reached | indefinite | broken | (steps >= self.max_steps)
        if precondition is not None:  # one that is not positive definite leads nowhere
            ended = ended | ~(preconditioned > 0)
        return _State(
            v,
            residual,
            optax.tree.add_scale(steepest, ratio.astype(squared.dtype), state.direction),
            squared,
            preconditioned,
            steps,
            state.indefinite | indefinite,
            state.broken | broken,
            ~check & ended & verify,
            jnp.where(check, ~first | reached, ended & ~verify),
            key,
        )

    def done(self, system: "_System", state: "_State") -> Bool[Array, ""]:
        return state.done


class _System(eqx.Module):
    """What is solved, and to what residual; `warm` where it does not begin at zero."""

    hvp: Callable[..., PyTree[Array]]
    g: PyTree[Array]
    precondition: Callable[..., Any] | None
    rtol: float | Scalar
    warm: bool = eqx.field(static=True)


class _State(eqx.Module):
    v: PyTree[Array]
    residual: PyTree[Array]
    direction: PyTree[Array]
    residual_squared: Scalar
    preconditioned_squared: Scalar
    steps: Int[Array, ""]
    indefinite: Bool[Array, ""]
    broken: Bool[Array, ""]
    checking: Bool[Array, ""]
    done: Bool[Array, ""]
    key: Any


@eqx.filter_jit
def _start(system: _System, v0, key) -> _State:
    g = system.g
    squared, no = vdot(g, g), jnp.asarray(False)
    direction, preconditioned = _steepest(system.precondition, g, squared)
    v = optax.tree.zeros_like(g) if v0 is None else v0
    done = _reached(squared, system.rtol)
    checking, zero = jnp.asarray(system.warm), jnp.asarray(0)
    return _State(v, g, direction, squared, preconditioned, zero, no, no, checking, done, key)


def _reached(squared, rtol):
    return squared <= jnp.asarray(rtol, squared.dtype) ** 2


def _steepest(precondition, residual, squared):
    if precondition is None:
        return residual, squared
    direction = precondition(residual)
    return direction, vdot(residual, direction)


@eqx.filter_jit
def _finish(state: _State) -> Iterate:
    result = Result.where(state.indefinite, Result.indefinite, Result.successful)
    result = Result.where(state.broken, Result.nonfinite, result)
    return Iterate(state.v, state.steps, result, rest=state.residual)
