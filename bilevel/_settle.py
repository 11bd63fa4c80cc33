"""The solution of a condition by Newton's method, as a judge of other solvers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import PRNGKeyArray

from ._inner import Params
from ._result import Result
from ._stationarity import step_to_stop_at
from ._tree import norm
from .inverse_hvp import CG, AbstractInverseHVP, Dense
from .problems._condition import AbstractCondition

MOST_DENSE = 1000
"""Parameters up to which the judge factorises the Hessian, and knows its eigenvalues."""


def judge_for(theta: Params) -> AbstractInverseHVP:
    return Dense() if optax.tree.size(theta) <= MOST_DENSE else CG(max_steps=2000)


def settle(
    condition: AbstractCondition,
    theta: Params,
    theta0: Params,
    key: PRNGKeyArray | None,
    steps: int = 30,
) -> tuple[Params, float, bool]:
    """theta after Newton steps; how far the first one was, relative to theta; did they converge.

    A step that does not make the residual smaller is halved, and given up after a few times.
    """
    judge, first = judge_for(theta), None
    size = _residual_norm(condition, theta, key)
    for _ in range(steps):
        _, residual, jacobian = condition.linearize(theta, key, rederive=False)
        move = judge(jacobian, residual, key=key)
        if not bool(move.result == Result.successful):
            break
        length = float(norm(move.v))
        scale = max(float(norm(theta)), 1e-3 * float(norm(optax.tree.sub(theta, theta0))))
        relative = length / scale if scale > 0 else (0.0 if length == 0 else float("inf"))
        first = relative if first is None else first
        if relative <= step_to_stop_at(theta):
            return optax.tree.sub(theta, move.v), first, True
        for halvings in range(10):
            ahead = optax.tree.add_scale(theta, -(0.5**halvings), move.v)
            shorter = _residual_norm(condition, ahead, key)
            if shorter < size:
                break
        else:  # as near as rounding allows, if it was near
            return theta, first, relative <= 1e3 * step_to_stop_at(theta)
        theta, size = ahead, shorter
    return theta, float("inf") if first is None else first, False


def _residual_norm(condition, theta, key) -> float:
    return float(norm(condition.linearize(theta, key, rederive=True)[1]))


def smallest_eigenvalue(condition: AbstractCondition, theta: Params, key) -> float | None:
    """Of the Hessian, where it is one and small enough to be made."""
    flat, unravel = ravel_pytree(theta)
    if flat.size > MOST_DENSE or not condition.symmetric:
        return None
    *_, hvp = condition.linearize(theta, key, rederive=False)

    def column(v):
        return ravel_pytree(hvp(unravel(v), key))[0]

    hessian = np.asarray(jax.vmap(column)(jnp.eye(flat.size, dtype=flat.dtype)), np.float64)
    if not np.all(np.isfinite(hessian)):
        return float("nan")
    return float(np.linalg.eigvalsh((hessian + hessian.T) / 2)[0])
