"""The right value for `fuzz.py`, in float64 and by dense algebra alone.

theta* is found by a damped Newton method that goes down, and polished by Newton's method; both use
the eigenvectors of the explicit Hessian, within the space in which theta may move (all of it, or
what the active constraints leave). The adjoint is solved there by the pseudo-inverse.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _fuzz_problems import Problem, Prox, shaped, to_simplex
from jax.flatten_util import ravel_pytree

CUT = 1e-11
"""Eigenvalues below this share of the largest count as zero."""


class Space(NamedTuple):
    """Where theta may move, and the gradient of a non-smooth term there: `slope exp(psi[0])`."""

    projector: Any
    slope: Any


@dataclass
class Right:
    """The hypergradient at a stationary point.

    `scale` is what an error has to be compared to: the hypergradient's norm, unless its parts
    cancel or theta's own rounding is enough to change it.
    """

    grad: np.ndarray
    theta: np.ndarray
    scale: float
    kind: str


def _loss(form, theta, psi, data, space):
    smooth = form.inner(_like(form.theta, theta), _like(form.psi, psi), data)
    return smooth + data["unit"] * jnp.exp(psi[0]) * (space.slope @ theta)


def _like(tree, flat):
    return ravel_pytree(jax.tree.map(jnp.asarray, tree))[1](flat)


def _decomposed(form, theta, psi, data, space):
    """The gradient and the Hessian's eigenvalues and eigenvectors, where theta may move."""
    gradient = space.projector @ jax.grad(partial(_loss, form))(theta, psi, data, space)
    hessian = jax.hessian(partial(_loss, form))(theta, psi, data, space)
    return gradient, *jnp.linalg.eigh(space.projector @ hessian @ space.projector)


def _inverse(values):
    kept = jnp.abs(values) > CUT * jnp.max(jnp.abs(values))
    return jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)


@partial(jax.jit, static_argnums=0)
def _descend(form, theta, psi, data, space):
    """Downhill, by Newton's method with |H| and a damping that adapts."""

    def step(state):
        count, theta, damping, _ = state
        gradient, values, vectors = _decomposed(form, theta, psi, data, space)
        largest = jnp.max(jnp.abs(values))
        curvature = jnp.maximum(jnp.abs(values) + damping * largest, CUT * largest)
        moved = theta - space.projector @ (vectors @ ((vectors.T @ gradient) / curvature))
        before, after = (_loss(form, t, psi, data, space) for t in (theta, moved))
        better = after < before
        theta = jnp.where(better, moved, theta)
        damping = jnp.clip(jnp.where(better, damping / 5, damping * 4), 1e-15, 1e15)
        return count + 1, theta, damping, jnp.where(better, 0, state[3] + 1)

    def proceed(state):
        return (state[0] < 300) & (state[3] < 30)

    return jax.lax.while_loop(proceed, step, (0, theta, jnp.asarray(1e-3), 0))[1]


@partial(jax.jit, static_argnums=0)
def _polish(form, theta, psi, data, space):
    """Newton's method to the nearest stationary point, and the gradient's norm there."""

    def step(_, state):
        theta, before = state
        gradient, values, vectors = _decomposed(form, theta, psi, data, space)
        moved = theta - vectors @ (_inverse(values) * (vectors.T @ gradient))
        after = jnp.linalg.norm(_decomposed(form, moved, psi, data, space)[0])
        better = after < before
        return jnp.where(better, moved, theta), jnp.where(better, after, before)

    start = jnp.linalg.norm(_decomposed(form, theta, psi, data, space)[0])
    return jax.lax.fori_loop(0, 20, step, (theta, start))


@partial(jax.jit, static_argnums=0)
def _differentiate(form, theta, psi, data, outer_data, space, damping):
    def outer(theta, psi):
        return form.outer(_like(form.theta, theta), _like(form.psi, psi), outer_data)

    g, direct = jax.grad(outer, (0, 1))(theta, psi)
    _, values, vectors = _decomposed(form, theta, psi, data, space)
    cross = jax.jacobian(jax.grad(partial(_loss, form)), 1)(theta, psi, data, space)
    damped = jnp.where(jnp.abs(values) > CUT * jnp.max(jnp.abs(values)), values + damping, damping)

    along = vectors.T @ (space.projector @ g)
    v = space.projector @ (vectors @ (_inverse(damped) * along))
    return direct, -cross.T @ v, values, jnp.trace(space.projector)


def _everywhere(problem: Problem) -> Space:
    n = sum(leaf.size for leaf in jax.tree.leaves(problem.form.theta))
    return Space(jnp.eye(n), jnp.zeros(n))


def operator_of(problem: Problem, unit) -> Any:
    """The proximal operator of a constrained problem."""
    if problem.form.constraint == "simplex":
        return to_simplex
    bounds = problem.bounds
    return Prox(*(jnp.asarray(bounds[k]) for k in ("lasso", "lower", "upper")), jnp.asarray(unit))


@partial(jax.jit, static_argnums=(0, 1))
def _prox_iterations(form, simplex, prox, theta, psi, data, step):
    def once(_, theta):
        moved = theta - step * jax.grad(form.inner)(theta, psi, data)
        return to_simplex(moved, psi) if simplex else prox(moved, psi, step)

    return jax.lax.fori_loop(0, 20_000, once, theta)


def _active(problem: Problem, theta, psi, data, step) -> tuple[np.ndarray, Space]:
    """theta* of a constrained problem, by many plain steps, and the space they leave."""
    simplex = problem.form.constraint == "simplex"
    prox = None if simplex else operator_of(problem, data["unit"])
    found = _prox_iterations(problem.form, simplex, prox, theta, psi, data, step)
    found = np.asarray(found)
    n = found.size
    if simplex:
        free = found > 1e-9
        projector = np.diag(1.0 * free) - np.outer(free, free) / free.sum()
        return found, Space(jnp.asarray(projector), jnp.zeros(n))
    bounds = problem.bounds
    free = (found > bounds["lower"]) & (found < bounds["upper"])
    free &= (found != 0) if bounds["lasso"] > 0 else True
    slope = bounds["lasso"] * np.sign(found) * free
    return found, Space(jnp.asarray(np.diag(1.0 * free)), jnp.asarray(slope))


class Reference:
    """The right values of one problem, whose arrays are rounded to the precision of a call.

    Attributes:
        theta: theta*, where a descent from theta0 ends.
        curvature: the largest of the Hessian, at theta0 or theta*.
    """

    def __init__(self, problem: Problem, dtype: str, unit: float):
        round_ = partial(_rounded, dtype=dtype)
        self.problem, self.form = problem, problem.form
        self.psi, self.theta0 = flat(round_(problem.psi)), flat(round_(problem.theta0))
        self.data = jax.tree.map(jnp.asarray, round_(problem.inner | {"unit": np.asarray(unit)}))
        self.outer = jax.tree.map(jnp.asarray, round_(problem.outer))
        self.space = _everywhere(problem)
        curvature = self._curvature(self.theta0)
        if self.form.constraint:
            step = 1 / (2 * curvature)
            start, self.space = _active(problem, self.theta0, self.psi, self.data, step)
        else:
            start = self._descended(self.theta0)
        self.theta = self._polished(start)
        self.curvature = max(curvature, self._curvature(self.theta))

    def right(self, theta, damping: float) -> Right:
        """The hypergradient at the stationary point that belongs to a solver's theta."""
        theta = self._stationary(np.asarray(theta, np.float64))
        direct, implicit, values, inside = self._differentiated(theta, damping)
        grad, kind = direct + implicit, _kind(values, round(float(inside)))
        parts = np.linalg.norm(direct) + np.linalg.norm(implicit)
        scale = max(np.linalg.norm(grad), 1e-4 * parts)
        if kind != "singular":
            scale = max(scale, 1e-5 * self._sensitivity(theta, damping, grad))
        return Right(grad, theta, float(scale), kind)

    def _stationary(self, theta):
        if self.problem.convex or not np.all(np.isfinite(theta)):
            return self.theta
        polished = self._polished(theta)
        if np.linalg.norm(polished - theta) <= 0.05 * np.linalg.norm(polished):
            return polished
        return self._polished(self._descended(theta))

    def _sensitivity(self, theta, damping, grad):
        """How much the hypergradient changes where theta does, relative to theta's size."""
        size = np.linalg.norm(theta) + np.linalg.norm(self.theta0)
        way = np.random.default_rng(0).normal(size=theta.size)
        step = 1e-6 * size * np.asarray(self.space.projector) @ way / np.linalg.norm(way)
        direct, implicit, *_ = self._differentiated(theta + step, damping)
        return np.linalg.norm(direct + implicit - grad) / 1e-6

    def _curvature(self, theta) -> float:
        values = _decomposed(self.form, jnp.asarray(theta), self.psi, self.data, self.space)[1]
        return float(np.max(np.abs(values)))

    def _descended(self, theta):
        return _descend(self.form, jnp.asarray(theta), self.psi, self.data, self.space)

    def _polished(self, theta):
        start = jnp.asarray(theta)
        return np.asarray(_polish(self.form, start, self.psi, self.data, self.space)[0])

    def _differentiated(self, theta, damping):
        at = (jnp.asarray(theta), self.psi, self.data, self.outer, self.space, damping)
        return map(np.asarray, _differentiate(self.form, *at))


def settle(problem: Problem) -> Problem:
    """The problem with what follows from theta*: a start there, targets that it meets."""
    if not (problem.fitted or problem.warm):
        return problem
    theta = Reference(problem, "float64", 1.0).theta
    outer = problem.outer
    if problem.fitted:
        noise = np.random.default_rng(0).normal(size=len(outer["x"]))
        outer = outer | {"y": outer["x"] @ theta + 1e-3 * noise}
    theta0 = shaped(problem.form.theta, theta) if problem.warm else problem.theta0
    return replace(problem, outer=outer, theta0=theta0, fitted=False, warm=False)


def _kind(values, inside: int) -> str:
    """What kind of stationary point it is, by the Hessian's eigenvalues where theta may move."""
    largest = np.max(np.abs(values))
    kept = np.sort(np.abs(values))[::-1][:inside]
    if inside and kept[-1] <= CUT * largest:
        return "singular"
    if np.min(values) >= -CUT * largest:
        return "minimum"
    return "maximum" if np.max(values) <= CUT * largest else "saddle"


def flat(tree) -> jnp.ndarray:
    return jnp.concatenate([jnp.ravel(jnp.asarray(leaf)) for leaf in jax.tree.leaves(tree)])


def _rounded(tree, dtype):
    return jax.tree.map(lambda leaf: np.asarray(np.asarray(leaf, dtype), np.float64), tree)
