from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Scalar

from .._descent import check_optimiser, descend
from .._loops import Loop, check_loop, iterate
from .._mistakes import check_steps
from .._result import Result
from .._tree import hold_last, norm, split_key, vdot, wide_dtype
from .._types import PyTree
from ._base import AbstractInverseHVP, Iterate


class SGD(AbstractInverseHVP):
    """Descent on `v.Hv/2 - g.v` with any optax optimiser (RCIG, equation 7).

    Its gradient is `Hv - g`: one Hessian-vector product a step. With plain SGD of rate a it is
    the Neumann series of rate a. `g` is scaled to norm 1 first, so that a rate does not depend on
    the size of `g`. The iterate with the smallest residual is kept (the last, if the products are
    stochastic).

    Attributes:
        transformation: an `optax.GradientTransformation`, e.g. `optax.adam(1e-2)`.
        steps: how many steps.
        scale: multiplies every update; a learning rate that can change without compiling anew.
        rtol: the relative residual to stop at; None: take all steps, and only a solve that ends
            no nearer to the solution than v = 0 counts as failed.
        loop: how the steps run, see `CG`.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from bilevel.inverse_hvp import SGD
        >>> hessian = jnp.diag(jnp.array([1.0, 2.0, 4.0]))
        >>> SGD(optax.sgd(0.25), steps=60)(lambda v: hessian @ v, jnp.ones(3)).v
        Array([1.000, 0.500, 0.250], dtype=float32)
    """

    transformation: optax.GradientTransformation
    steps: int = eqx.field(static=True)
    scale: float | Scalar = 1.0
    rtol: float | None = None
    loop: Loop = eqx.field(default="auto", static=True)

    def __check_init__(self) -> None:
        check_loop(self.loop)
        check_optimiser(self.transformation)
        check_steps(self.steps)

    @property
    def traceable(self) -> bool:
        return self.loop != "dispatch"

    def tolerance(self, g: PyTree[Array]) -> float | Scalar | None:
        return self.rtol

    def solve(
        self,
        hvp: Callable[..., PyTree[Array]],
        g: PyTree[Array],
        v0: PyTree[Array] | None,
        key: PRNGKeyArray | None,
    ) -> Iterate:
        system = _System(hvp, g)
        state = _start(self.transformation, g, v0, key, self.steps)
        # One more product tells the residual of the last iterate; a random one tells nothing.
        products = self.steps + (1 if key is None else 0)
        return _finish(iterate(self.step, self.done, system, state, products, self.loop))

    def step(self, system: "_System", state: "_State") -> "_State":
        hvp, g = system.hvp, system.g
        key, now = split_key(state.key, 2)
        gradient = optax.tree.sub(hvp(state.v, now), g)
        loss = 0.5 * vdot(state.v, optax.tree.sub(gradient, g))

        def value(v):
            return vdot(v, hvp(v, now)) / 2 - vdot(g, v)

        v, optimiser = descend(
            self.transformation, gradient, state.optimiser, state.v, self.scale, loss, value
        )
        residual = jnp.asarray(optax.tree.norm(gradient))
        better = residual < state.best
        best_v, best_rest, best = optax.tree.where(
            better,
            (state.v, optax.tree.scale(-1, gradient), residual),
            (state.best_v, state.best_rest, state.best),
        )
        losses = state.losses.at[state.count].set(loss, mode="drop")
        return _State(v, optimiser, best_v, best_rest, best, residual, state.count + 1, losses, key)

    def done(self, system: "_System", state: "_State") -> Bool[Array, ""] | bool:
        return (
            False if self.rtol is None else state.best <= jnp.asarray(self.rtol, state.best.dtype)
        )


class _System(eqx.Module):
    hvp: Callable[..., PyTree[Array]]
    g: PyTree[Array]


class _State(eqx.Module):
    v: PyTree[Array]
    optimiser: PyTree
    best_v: PyTree[Array]
    best_rest: PyTree[Array]
    best: Scalar
    last: Scalar
    count: Int[Array, ""]
    losses: Float[Array, " steps"]
    key: Any


@eqx.filter_jit
def _start(transformation, g, v0, key, steps) -> _State:
    v = optax.tree.zeros_like(g) if v0 is None else v0
    best = jnp.full_like(norm(g), jnp.finfo(wide_dtype(g)).max)
    losses = jnp.zeros((steps,), best.dtype)
    optimiser = transformation.init(v)
    return _State(v, optimiser, v, g, best, best, jnp.asarray(0), losses, key)


@eqx.filter_jit
def _finish(state: _State) -> Iterate:
    steps = jnp.minimum(state.count, state.losses.size)
    losses = hold_last(state.losses, steps)
    if state.key is not None:
        return Iterate(state.v, steps, Result.successful, losses)
    result = Result.where(jnp.isfinite(state.last), Result.successful, Result.nonfinite)
    return Iterate(state.best_v, steps, result, losses, state.best_rest)
