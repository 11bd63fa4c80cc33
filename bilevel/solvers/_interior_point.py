from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import lu_factor, lu_solve
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Scalar

from .._loops import Loop, iterate
from .._point import Multipliers, Point
from .._result import Result
from .._stationarity import step_to_stop_at, unless_endless
from .._tree import norm, wide_dtype
from .._types import PyTree
from ..problems import Constrained
from ..problems._constrained import scaled
from ._base import AbstractSolver, Steps, refuse_key
from ._fixed_point import check_settings

LENGTHS = 10
"""Of a step, each half of the one before: that with the smallest residual is taken."""


class InteriorPoint(AbstractSolver):
    """A primal-dual interior-point method for `Constrained` problems (Mehrotra, 1992).

    With slacks `t = -g > 0`, each step is a Newton step towards `t w = mu`, whose mu falls to zero;
    a predictor says how fast, and a second solve with the same factors corrects. It takes some ten
    steps for a convex problem; of another it finds a KKT point, and where that is no minimum the
    result is `Result.no_minimum`. The system is made and factorised: for thousands of numbers, not
    for more.

    Attributes:
        max_steps: at most so many steps.
        tol: a solve that ends with a norm of the KKT residual above this is reported, where the
            loss and the constraints are in units in which their derivatives are about 1 at theta0.
            None: one that is still on its way by the length of its next step. It stops where a
            Newton step is shorter than theta, and than the multipliers, by a factor of 1e-10 in
            float64 and 1e-6 otherwise.
        loop: how the steps run, see `bilevel.inverse_hvp.CG`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel import argmin
        >>> from bilevel.problems import Constrained
        >>> from bilevel.solvers import InteriorPoint
        >>> inner = Constrained(lambda theta, psi: jnp.sum((theta - 2.0) ** 2),
        ...                     inequality=lambda theta, psi: theta - psi)
        >>> argmin(inner, solver=InteriorPoint())(jnp.array([1.0, 3.0]), jnp.zeros(2))
        Array([1.00, 2.00], dtype=float32)
    """

    max_steps: int = eqx.field(default=50, static=True)
    tol: float | None = None
    loop: Loop = eqx.field(default="auto", static=True)
    finds: ClassVar[str] = "solutions of `Constrained` problems"

    def __check_init__(self) -> None:
        check_settings(self)

    def suits(self, inner: Callable[..., Any]) -> bool:
        return isinstance(inner, Constrained)

    def solve(
        self, loss: Callable[..., Scalar], theta0: PyTree[Array], key: PRNGKeyArray | None
    ) -> Steps:
        refuse_key("InteriorPoint", key)
        problem = _Problem(loss, theta0)
        state = iterate(
            self.step,
            self.done,
            problem,
            _start(problem, self.max_steps),
            self.max_steps,
            self.loop,
        )
        result = Result.where(self.done(problem, state), Result.successful, Result.not_stationary)
        stuck = jnp.isfinite(state.size) & ~jnp.isfinite(state.length)
        result = Result.where(stuck, Result.singular, result)
        inverse = jnp.where(
            state.size > 0, state.length / jnp.where(state.size > 0, state.size, 1), 0
        )
        # In its units the first gradient has a length of 1 to 2.
        first, start = jnp.ones_like(state.size), problem.start()
        inverse = unless_endless(inverse, state.size, first, state.at.x, start)
        point = _point(problem, state.at)
        return Steps(point, state.count, state.losses, result, self.tol, inverse)

    def step(self, problem: "_Problem", state: "_State") -> "_State":
        at = state.at
        (residual, value), jacobian = _linearize(problem, at)
        solve = _factorise(jacobian, at)
        predicted = solve(residual)
        target = _complementarity(_moved(at, predicted, _longest(at, predicted, 1.0)))
        now = _complementarity(at)
        centre = jnp.where(now > 0, target / jnp.where(now > 0, now, 1), 0) ** 3 * now
        product = residual.product + predicted.t * predicted.w - centre
        direction = solve(eqx.tree_at(lambda r: r.product, residual, product))
        longest = _longest(at, direction, 0.995)
        lengths = longest * 0.5 ** jnp.arange(LENGTHS, dtype=at.x.dtype)

        def size(length):
            return norm(_residual(problem, _moved(at, direction, length))[0])

        sizes = jax.vmap(size)(lengths)
        best = lengths[jnp.argmin(jnp.where(jnp.isfinite(sizes), sizes, jnp.inf))]
        dual = (predicted.y, predicted.w)
        return _State(
            _moved(at, direction, best),
            state.count + 1,
            state.losses.at[state.count].set(value.astype(state.losses.dtype)),
            norm(residual),
            norm((predicted.x, dual)),
            norm(predicted.x) / jnp.maximum(norm(at.x), 1e-3 * norm(at.x - problem.start())),
            norm(dual) / jnp.maximum(norm((at.y, at.w)), 1),
        )

    def done(self, problem: "_Problem", state: "_State") -> Bool[Array, ""]:
        short = step_to_stop_at(problem.point0.theta)
        solved = (state.size == 0) | ((state.moves <= short) & (state.turns <= short))
        return solved | ~jnp.isfinite(state.length)


class _Problem(eqx.Module):
    loss: Any
    point0: Any  # a `Point`

    def start(self) -> Array:
        return ravel_pytree(self.point0.theta)[0]


class _At(eqx.Module):
    """theta, the multipliers, and the slacks of the inequalities, as vectors."""

    x: Float[Array, " n"]
    y: Float[Array, " e"]
    w: Float[Array, " i"]
    t: Float[Array, " i"]


class _KKT(eqx.Module):
    """What is zero at the solution: the gradient, h, g + t and t w."""

    gradient: Float[Array, " n"]
    equality: Float[Array, " e"]
    inequality: Float[Array, " i"]
    product: Float[Array, " i"]


class _State(eqx.Module):
    at: _At
    count: Int[Array, ""]
    losses: Float[Array, " steps"]
    size: Scalar
    length: Scalar
    moves: Scalar
    turns: Scalar


def _vector(tree: Any, dtype) -> Array:
    return ravel_pytree(tree)[0] if jax.tree.leaves(tree) else jnp.zeros((0,), dtype)


def _residual(problem: _Problem, at: _At) -> tuple[_KKT, Scalar]:
    unravel = ravel_pytree(problem.point0.theta)[1]

    def lagrangian(x):
        value, loss, h, g = scaled(problem.loss, unravel(x))
        h, g = _vector(h, x.dtype), _vector(g, x.dtype)
        return loss + at.y @ h + at.w @ g, (value, h, g)

    gradient, (value, h, g) = jax.grad(lagrangian, has_aux=True)(at.x)
    return _KKT(gradient, h, g + at.t, at.t * at.w), value


def _linearize(problem: _Problem, at: _At):
    """The residual and the loss; and the rows of the Jacobian in x."""

    def of(x):
        found = _residual(problem, eqx.tree_at(lambda at: at.x, at, x))
        return found[0], found

    rows, found = jax.jacfwd(of, has_aux=True)(at.x)
    return found, rows


def _factorise(jacobian: _KKT, at: _At):
    """The Newton step for a residual, the slacks and their multipliers eliminated."""
    hessian, a, c = jacobian.gradient, jacobian.equality, jacobian.inequality
    n, e = at.x.size, at.y.size
    weight = at.w / at.t
    upper = jnp.concatenate([hessian + c.T @ (weight[:, None] * c), a.T], axis=1)
    lower = jnp.concatenate([a, jnp.zeros((e, e), a.dtype)], axis=1)
    factors = lu_factor(jnp.concatenate([upper, lower]))

    def solve(residual: _KKT) -> _At:
        bent = (at.w * residual.inequality - residual.product) / at.t
        right = jnp.concatenate([residual.gradient + c.T @ bent, residual.equality])
        found = -lu_solve(factors, right)
        x, y = found[:n], found[n:]
        t = -residual.inequality - c @ x
        w = -(residual.product + at.w * t) / at.t
        return _At(x, y, w, t)

    return solve


def _longest(at: _At, direction: _At, part: float) -> Scalar:
    """The longest step, up to 1, that goes no more than a part of the way to a bound."""
    bounded = [(at.t, direction.t), (at.w, direction.w)]
    ways = [jnp.where(d < 0, -v / jnp.where(d < 0, d, 1), jnp.inf) for v, d in bounded]
    nearest = jnp.min(jnp.concatenate(ways), initial=jnp.inf)
    return jnp.minimum(1, part * nearest).astype(at.x.dtype)


def _moved(at: _At, direction: _At, length: Scalar) -> _At:
    return jax.tree.map(lambda value, d: value + length * d, at, direction)


def _complementarity(at: _At) -> Scalar:
    return at.t @ at.w / max(at.t.size, 1)


def _point(problem: _Problem, at: _At) -> Point:
    theta, multipliers = problem.point0.theta, problem.point0.multipliers

    def like(tree, flat):
        return ravel_pytree(tree)[1](flat) if jax.tree.leaves(tree) else tree

    return Point(
        like(theta, at.x),
        Multipliers(like(multipliers.equality, at.y), like(multipliers.inequality, at.w)),
    )


@eqx.filter_jit
def _start(problem: _Problem, steps: int) -> _State:
    x, dtype = problem.start(), wide_dtype(problem.point0.theta)
    *_, g = scaled(problem.loss, problem.point0.theta)
    g, multipliers = _vector(g, dtype), problem.point0.multipliers
    size = jnp.max(jnp.abs(g), initial=0)
    size = jnp.where(size > 0, size, 1)
    at = _At(
        x,
        _vector(multipliers.equality, dtype),
        _vector(multipliers.inequality, dtype),
        jnp.maximum(-g, size),
    )
    most = jnp.asarray(jnp.finfo(dtype).max)
    return _State(at, jnp.asarray(0), jnp.zeros((steps,), dtype), most, most, most, most)
