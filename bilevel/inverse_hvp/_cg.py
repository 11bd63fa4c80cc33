from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray, Scalar

from .._loops import Loop, check_loop, iterate
from .._mistakes import check_steps
from .._result import Result
from .._tree import split_key, wide_dtype
from .._types import PyTree
from ._base import AbstractInverseHVP, Iterate, default_rtol
from ._conjugate import ConjugateGradients, ConjugateGradientState, Norm
from ._krylov_space import KrylovSpace
from ._packing import Packed, Packing
from ._preconditioner import AbstractPreconditioner, make_preconditioner


class CG(AbstractInverseHVP):
    """Conjugate gradients (Hestenes and Stiefel, 1952), for a positive definite Hessian.

    One Hessian-vector product a step. The last sound iterate is kept: in the norm of the Hessian
    it is the nearest to the solution. A direction of non-positive curvature ends the solve with
    `Result.indefinite`. The steps are those of `ConjugateGradients`.

    Attributes:
        rtol: stop at this relative error; None: 1e-10 in float64, 1e-5 otherwise.
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
            and near the (damped) Hessian, where it is ill-conditioned. A `KrylovSpace` of an
            earlier solve is one.
        norm: what the error is: "residual", the relative residual; or "operator", an estimate of
            the relative error of v in the norm of the Hessian.
        keep: how many of the directions searched are kept, as `Adjoint.space`, in as many times
            the memory of theta, twice.
        space: `Adjoint.space` of an earlier solve with the very same Hessian and another
            right-hand side.

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
    norm: Norm = eqx.field(default="residual", static=True)
    keep: int = eqx.field(default=0, static=True)
    space: KrylovSpace | None = None

    @property
    def symmetric_only(self) -> bool:
        return True

    def __check_init__(self) -> None:
        check_loop(self.loop)
        check_steps(self.max_steps, "max_steps")
        if isinstance(self.rtol, float | int) and self.rtol < 0:
            raise ValueError(f"rtol={self.rtol} is negative: give a relative residual, e.g. 1e-6.")
        if self.norm not in ("residual", "operator"):
            raise ValueError(f"norm={self.norm!r} is not known: choose 'residual' or 'operator'.")
        if self.keep < 0:
            raise ValueError(f"keep={self.keep} is negative: give a number of directions, or 0.")

    @property
    def traceable(self) -> bool:
        return self.loop != "dispatch"

    def tolerance(self, g: PyTree[Array]) -> float | Scalar | None:
        if self.truncated:
            return None
        # In the norm of the Hessian v may be near where its residual is not.
        return self._rtol(g) if self.norm == "residual" else jnp.inf

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
        rtol = jnp.asarray(self._rtol(g, hvp), wide_dtype(g))
        keep = min(self.keep, self.max_steps)
        packing = None if keep or self.space is not None else Packing.of(g)
        if packing is not None:
            hvp = Packed(hvp, packing)
            precondition = None if precondition is None else Packed(precondition, packing)
        steps = ConjugateGradients(rtol, self.max_steps, self.norm, keep, precondition, self.space)
        system, carry = _start(hvp, g, v0, key, steps, packing)
        products = self.max_steps + (1 if v0 is None else 2)
        carry = iterate(self.step, self.done, system, carry, products, self.loop)
        judge = self.norm == "operator" and not self.truncated
        return _finish(system.steps, carry[0], packing, judge)

    def step(self, system: "_System", carry: "_Carry") -> "_Carry":
        """A conjugate gradient step or, before and after them all, the residual computed afresh.

        Both are one product, so that the program holds one only: it is what takes long to compile.
        """
        state, (key, now) = carry[0], split_key(carry[1], 2)
        image = system.hvp(system.steps.argument(state), now)
        return system.steps.update(state, image, system.g, verify=self.verify), key

    def done(self, system: "_System", carry: "_Carry") -> Bool[Array, ""]:
        return carry[0].done


class _System(eqx.Module):
    """What is solved, and by which steps."""

    hvp: Callable[..., PyTree[Array]]
    g: PyTree[Array]
    steps: ConjugateGradients


_Carry = tuple[ConjugateGradientState, Any]


@eqx.filter_jit
def _start(hvp, g, v0, key, steps, packing) -> tuple[_System, _Carry]:
    if packing is not None:
        g, v0 = packing.pack(g), None if v0 is None else packing.pack(v0)
    return _System(hvp, g, steps), (steps.init(g, v0, verify=True), key)


@eqx.filter_jit
def _finish(steps: ConjugateGradients, state: ConjugateGradientState, packing, judge) -> Iterate:
    _, result = steps.finish(state)
    if not judge:  # the base class does, by the residual
        short = result == Result.max_steps_reached
        result = Result.where(short, Result.successful, result)
    space = None if state.searched is None else KrylovSpace.make(*state.searched)
    x, rest = state.x, state.residual
    if packing is not None:
        x, rest = packing.unpack(x), packing.unpack(rest)
    # The recurrence trusts what a space says of the operator.
    rest = rest if steps.space is None else None
    return Iterate(x, state.steps, result, rest=rest, space=space)
