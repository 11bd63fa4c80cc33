from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree, Scalar

from .._descent import check_optimiser, descend
from .._inner import evaluate, value_and_grad
from .._loops import Loop, check_loop, iterate
from .._result import Result
from .._tree import norm, wide_dtype
from ._base import AbstractSolver, Steps, check_tol


class GradientDescent(AbstractSolver):
    """Steps of any optax optimiser: a fixed number of them, or until a tolerance.

    Attributes:
        transformation: an `optax.GradientTransformation`, e.g. `optax.adam(1e-3)`.
        steps: how many steps, at most so many where `tol` is given.
        tol: stop where the norm of the gradient is at most this; a solve that ends above it is
            reported. None: take all steps.
        scale: multiplies every update; a learning rate that can change without compiling anew.
        loop: how the steps run, see `bilevel.inverse_hvp.CG`.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from bilevel.solvers import GradientDescent
        >>> solver = GradientDescent(optax.sgd(0.5), steps=20)
        >>> theta, record = solver(lambda theta: jnp.sum((theta - 1) ** 2) / 2, jnp.zeros(2))
        >>> bool(record.gradient_norm < 1e-5)
        True
    """

    transformation: optax.GradientTransformation
    steps: int = eqx.field(static=True)
    tol: float | None = None
    scale: float | Scalar = 1.0
    loop: Loop = eqx.field(default="auto", static=True)

    def __check_init__(self):
        check_loop(self.loop)
        if self.steps < 0:
            raise ValueError(f"steps={self.steps} is negative: give 0 or more.")
        check_optimiser(self.transformation)
        check_tol(self.tol)

    def solve(self, loss, theta0, key):
        operands = (loss, self.transformation, jnp.asarray(self.scale), self.tol)
        state = _start(self.transformation, theta0, key, self.steps)
        state = iterate(_step, _done, operands, state, self.steps, self.loop)
        return Steps(state.theta, state.count, state.losses, Result.not_judged, self.tol)


class _State(eqx.Module):
    theta: PyTree[Array]
    optimiser: PyTree
    count: Int[Array, ""]
    losses: Float[Array, " steps"]
    gradient_norm: Scalar
    key: Any


@eqx.filter_jit
def _start(transformation, theta0, key, steps):
    dtype = wide_dtype(theta0)
    losses, most = jnp.zeros((steps,), dtype), jnp.asarray(jnp.finfo(dtype).max)
    return _State(theta0, transformation.init(theta0), jnp.asarray(0), losses, most, key)


def _step(operands, state: _State) -> _State:
    loss, transformation, scale, tol = operands
    now = key_of_step(state.key, state.count)
    theta, optimiser, value, gradient = gradient_step(
        loss, transformation, scale, state.theta, state.optimiser, now
    )
    losses = state.losses.at[state.count].set(value.astype(state.losses.dtype))
    size = state.gradient_norm
    if tol is not None:
        size = norm(gradient).astype(size.dtype)
        stay = size <= jnp.asarray(tol, size.dtype)
        theta = optax.tree.where(stay, state.theta, theta)
    return _State(theta, optimiser, state.count + 1, losses, size, state.key)


def gradient_step(loss, transformation, scale, theta, optimiser, key):
    """theta and the optimiser's state after a step, the loss and its gradient before it."""
    value, gradient = value_and_grad(loss, theta, key)

    def value_fn(theta):
        return evaluate(loss, theta, key)

    theta, optimiser = descend(transformation, gradient, optimiser, theta, scale, value, value_fn)
    return theta, optimiser, value, gradient


def key_of_step(key, count):
    """The key of a step, the same whether steps are taken or differentiated."""
    return None if key is None else jax.random.fold_in(key, count)


def _done(operands, state: _State):
    tol = operands[-1]
    return False if tol is None else state.gradient_norm <= jnp.asarray(tol, state.losses.dtype)
