from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import optax
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

    def tolerance(self, g):
        return default_rtol(g) if self.rtol is None else self.rtol

    def solve(self, hvp, g, v0, key):
        precondition = make_preconditioner(self.preconditioner, hvp, g, key)
        operands = (hvp, precondition, self.tolerance(g))
        state = _start(hvp, precondition, g, v0, key)
        state = iterate(_step, _done, operands, state, self.max_steps, self.loop)
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
    key: Any


@eqx.filter_jit
def _start(hvp, precondition, g, v0, key):
    v, residual, squared = optax.tree.zeros_like(g), g, vdot(g, g)
    if v0 is not None:
        warm_residual = optax.tree.sub(g, product(hvp, v0, key))
        warm_squared = vdot(warm_residual, warm_residual)
        better = warm_squared <= squared  # a warm start that is worse than zero, or NaN, is none
        v, residual, squared = optax.tree.where(
            better, (v0, warm_residual, warm_squared), (v, residual, squared)
        )
    direction, preconditioned = residual, squared
    if precondition is not None:
        direction = precondition(residual)
        preconditioned = vdot(residual, direction)
    no, zero = jnp.asarray(False), jnp.asarray(0)
    return _State(v, residual, direction, squared, preconditioned, v, zero, no, key)


def _step(operands, state: _State) -> _State:
    hvp, precondition, _ = operands
    key, now = split_key(state.key, 2)
    along = product(hvp, state.direction, now)
    curvature = vdot(state.direction, along)
    indefinite = curvature <= 0
    length = state.preconditioned_squared / jnp.where(indefinite, 1, curvature)
    length = jnp.where(indefinite, 0, length).astype(curvature.dtype)
    v = optax.tree.add_scale(state.v, length, state.direction)
    residual = optax.tree.add_scale(state.residual, -length, along)
    squared = vdot(residual, residual)
    steepest, preconditioned = residual, squared
    if precondition is not None:
        steepest = precondition(residual)
        preconditioned = vdot(residual, steepest)
    ratio = preconditioned / state.preconditioned_squared
    return _State(
        v,
        residual,
        optax.tree.add_scale(steepest, ratio, state.direction),
        squared,
        preconditioned,
        # Every step with positive curvature comes nearer in the norm of H, though the residual may
        # rise above that of v = 0 for a while: the last such iterate is the best.
        optax.tree.where(jnp.isfinite(squared), v, state.sound_v),
        state.steps + 1,
        indefinite,
        key,
    )


def _done(operands, state: _State):
    _, precondition, rtol = operands
    reached = state.residual_squared <= jnp.asarray(rtol, state.residual_squared.dtype) ** 2
    ended = reached | state.indefinite | ~jnp.isfinite(state.residual_squared)
    # A preconditioner that is not positive definite leads nowhere.
    return ended if precondition is None else ended | ~(state.preconditioned_squared > 0)


@eqx.filter_jit
def _finish(state: _State) -> Iterate:
    result = Result.where(state.indefinite, Result.indefinite, Result.successful)
    finite = jnp.isfinite(state.residual_squared)
    result = Result.where(finite, result, Result.nonfinite)
    return Iterate(state.sound_v, state.steps, result)
