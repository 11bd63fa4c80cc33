from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Scalar

from .._inner import value_and_grad
from .._loops import Loop, check_loop, iterate
from .._mistakes import call, check_steps
from .._result import Result
from .._stationarity import step_to_stop_at
from .._tree import norm, split_key, vdot, wide_dtype
from .._types import PyTree
from ..problems._condition import AbstractCondition
from ..problems._proximal import Proximal, proximal_step
from ._base import AbstractMinimiser, Steps, check_tol


class ProximalGradient(AbstractMinimiser):
    """Accelerated proximal gradient descent (Beck and Teboulle, 2009), with restarts.

    Minimises `inner(theta, psi) + r(theta, psi)`, where r is given by its proximal operator, and
    so need not be smooth: an L1 norm (lasso), or a constraint. Its solution is where

        theta = prox(theta - s d inner / d theta, psi, s)

    with s the step size; hypergradients differentiate this fixed point, and the Jacobian of its
    residual takes the place of the Hessian. That is not symmetric: `CG` solves its normal
    equations; `Dense`, `Neumann` with rate s, and `Lineax` with GMRES or BiCGStab take it as it is.

    Attributes:
        prox: `prox(theta, psi, step_size)` returns `argmin_t |t - theta|^2 / 2 + step_size
            r(t, psi)`, shaped like theta; those of `jaxopt.prox` have this form. Derivatives reach
            its psi, and what it closes over where `argmin` or `hypergradient` is differentiated.
        step_size: s, at most 1 over the largest eigenvalue of the Hessian of the inner loss.
        max_steps: at most so many steps.
        tol: stop where the norm of the fixed point's residual over s is at most this; a solve that
            ends above it is reported. None: stop where a step is shorter than theta by a factor
            of 1e-10 in float64 and 1e-6 otherwise.
        loop: how the steps run, see `bilevel.inverse_hvp.CG`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from bilevel import argmin
        >>> from bilevel.solvers import ProximalGradient
        >>> def soft_threshold(theta, penalty, step_size):
        ...     return jnp.sign(theta) * jnp.maximum(jnp.abs(theta) - step_size * penalty, 0)
        >>> target = jnp.array([3.0, 0.5, -2.0])
        >>> lasso = argmin(lambda theta, penalty: jnp.sum((theta - target) ** 2) / 2,
        ...                solver=ProximalGradient(soft_threshold, step_size=1.0))
        >>> lasso(jnp.asarray(1.0), jnp.zeros(3))
        Array([ 2.,  0., -1.], dtype=float32)
        >>> jax.jacrev(lasso)(jnp.float32(1), jnp.zeros(3))
        Array([-1.,  0.,  1.], dtype=float32)
    """

    prox: Callable[[PyTree, PyTree, Scalar], PyTree]
    step_size: float | Scalar
    max_steps: int = eqx.field(default=1000, static=True)
    tol: float | None = None
    loop: Loop = eqx.field(default="auto", static=True)

    def __check_init__(self) -> None:
        check_loop(self.loop)
        check_tol(self.tol)
        if isinstance(self.step_size, float | int) and self.step_size <= 0:
            raise ValueError(f"step_size={self.step_size} is not positive: give e.g. 1e-2.")
        check_steps(self.max_steps, "max_steps")

    def condition(self, loss: Any) -> AbstractCondition:
        return self._condition(loss)

    def _condition(self, loss: Any) -> Proximal:
        return Proximal(loss, self.prox, jnp.asarray(self.step_size))

    def solve(
        self, loss: Callable[..., Scalar], theta0: PyTree[Array], key: PRNGKeyArray | None
    ) -> Steps:
        dtype = wide_dtype(theta0)
        problem, state = (
            _Problem(self._condition(loss), theta0),
            _start(theta0, key, self.max_steps),
        )
        state = iterate(self.step, self.done, problem, state, self.max_steps, self.loop)
        ended = self.done(problem, state) if self.tol is None else True
        result = Result.where(jnp.asarray(ended), Result.successful, Result.not_stationary)
        inverse = jnp.maximum(state.inverse_curvature, jnp.asarray(self.step_size, dtype))
        return Steps(state.theta, state.count, state.losses, result, self.tol, inverse)

    def step(self, problem: "_Problem", state: "_State") -> "_State":
        condition = problem.condition
        key, now = split_key(state.key, 2)
        value, gradient = value_and_grad(condition.loss, state.ahead, now)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            theta = proximal_step(
                condition.loss, condition.prox, condition.step_size, state.ahead, gradient
            )
        theta = jax.tree.map(lambda new, old: new.astype(old.dtype), theta, state.theta)
        moved = optax.tree.sub(theta, state.theta)
        gap = optax.tree.sub(theta, state.ahead)
        momentum = (1 + jnp.sqrt(1 + 4 * state.momentum**2)) / 2
        # O'Donoghue and Candes (2015): momentum that points uphill is dropped.
        uphill = vdot(gap, moved) < 0
        momentum = jnp.where(uphill, 1, momentum).astype(momentum.dtype)
        push = jnp.where(uphill, 0, (state.momentum - 1) / momentum).astype(momentum.dtype)
        losses = state.losses.at[state.count].set(value.astype(state.losses.dtype))
        dtype = state.residual.dtype
        rate = condition.step_size.astype(dtype)
        size = norm(gap).astype(dtype) / rate
        ahead = optax.tree.add_scale(theta, push, moved)
        return _State(
            theta,
            ahead,
            gap,
            momentum,
            state.count + 1,
            losses,
            size,
            rate * _stretch(state, gap).astype(dtype),
            key,
        )

    def done(self, problem: "_Problem", state: "_State") -> Bool[Array, ""]:
        condition, theta0, tol = problem.condition, problem.theta0, self.tol
        if tol is None:
            length = jnp.maximum(
                norm(state.theta), 1e-3 * norm(optax.tree.sub(state.theta, theta0))
            )
            tol = step_to_stop_at(theta0) * length / condition.step_size.astype(length.dtype)
        # The residual is that of the point before; the one at theta is smaller by the contraction.
        short = state.residual <= 0.5 * jnp.asarray(tol, state.residual.dtype)
        return short | jnp.isnan(state.residual)


class ProjectedGradient(ProximalGradient):
    """Accelerated projected gradient descent: `ProximalGradient` with a projection.

    Attributes:
        prox: made by `ProjectedGradient(projection, step_size)` from `projection(theta, psi)`,
            the nearest point of the set of allowed theta; for example
            `lambda theta, psi: optax.projections.projection_simplex(theta)`, or one of
            `jaxopt.projection`.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from bilevel.solvers import ProjectedGradient
        >>> simplex = lambda theta, psi: optax.projections.projection_simplex(theta)
        >>> solver = ProjectedGradient(simplex, step_size=0.5)
        >>> target = jnp.array([0.9, 0.5, -1.0])
        >>> theta, _ = solver(lambda theta: jnp.sum((theta - target) ** 2), jnp.ones(3) / 3)
        >>> theta
        Array([0.7, 0.3, 0. ], dtype=float32)
    """

    def __init__(
        self,
        projection: Callable[[PyTree, PyTree], PyTree],
        step_size: float | Scalar,
        max_steps: int = 1000,
        tol: float | None = None,
        loop: Loop = "auto",
    ):
        super().__init__(_Projection(projection), step_size, max_steps, tol, loop)


class _Projection(eqx.Module):
    projection: Callable[[PyTree, PyTree], PyTree]

    def __call__(self, theta: PyTree, psi: PyTree, step_size: Any) -> PyTree:
        return call(self.projection, "projection(theta, psi)", theta, psi)


class _Problem(eqx.Module):
    condition: Proximal
    theta0: PyTree[Array]


class _State(eqx.Module):
    theta: PyTree[Array]
    ahead: PyTree[Array]
    gap: PyTree[Array]
    momentum: Scalar
    count: Int[Array, ""]
    losses: Float[Array, " steps"]
    residual: Scalar
    inverse_curvature: Scalar
    key: Any


def _stretch(state: _State, gap: PyTree[Array]) -> Scalar:
    """How far the last two points that were stepped from are apart, by what their steps differ:
    the inverse of a curvature, where what is left are the flattest directions.
    """
    before = optax.tree.sub(state.theta, state.gap)
    way, turn = norm(optax.tree.sub(state.ahead, before)), norm(optax.tree.sub(gap, state.gap))
    shown = way > 16 * jnp.finfo(way.dtype).eps * norm(state.theta).astype(way.dtype)
    most = jnp.asarray(float(jnp.finfo(way.dtype).max) ** 0.5, way.dtype)
    turn = turn.astype(way.dtype)
    found = jnp.where(turn > way / most, way / jnp.where(turn > 0, turn, 1), most)
    return jnp.where((state.count > 0) & shown, found, 1)


@eqx.filter_jit
def _start(theta0, key, steps) -> _State:
    dtype = wide_dtype(theta0)
    losses, most = jnp.zeros((steps,), dtype), jnp.asarray(jnp.finfo(dtype).max)
    one, still = jnp.ones((), dtype), optax.tree.zeros_like(theta0)
    return _State(
        theta0, theta0, still, one, jnp.asarray(0), losses, most, jnp.zeros((), dtype), key
    )
