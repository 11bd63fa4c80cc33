"""The right value for `fuzz.py`, in float64 and by dense algebra alone.

theta* is found by a damped Newton method that goes down, and polished by Newton's method; both use
the eigenvectors of the explicit Hessian, within the space in which theta may move (all of it, or
what the active constraints leave). The adjoint is solved there by the pseudo-inverse.
"""

from dataclasses import dataclass
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

    def pulled(g):
        along = vectors.T @ (space.projector @ g)
        return -cross.T @ (space.projector @ (vectors @ (_inverse(damped) * along)))

    implicit = pulled(g)
    curved = pulled(jax.jvp(lambda t: jax.grad(outer)(t, psi), (theta,), (theta,))[1])
    inside = jnp.trace(space.projector)
    return direct, implicit, curved, values, inside


def smooth_space(problem: Problem) -> Space:
    n = sum(leaf.size for leaf in jax.tree.leaves(problem.form.theta))
    return Space(jnp.eye(n), jnp.zeros(n))


def operator_of(problem: Problem, unit) -> Any:
    """The proximal operator of a constrained problem."""
    if problem.form.constraint == "simplex":
        return lambda theta, psi, step: to_simplex(theta, psi)
    facts = problem.facts
    return Prox(*(jnp.asarray(facts[k]) for k in ("lasso", "lower", "upper")), jnp.asarray(unit))


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
    facts = problem.facts
    free = (found > facts["lower"]) & (found < facts["upper"])
    free &= (found != 0) if facts["lasso"] > 0 else True
    slope = facts["lasso"] * np.sign(found) * free
    return found, Space(jnp.asarray(np.diag(1.0 * free)), jnp.asarray(slope))


class Reference:
    """The right values of one problem, whose arrays are rounded to the precision of a call."""

    def __init__(self, problem: Problem, dtype: str, unit: float):
        self.problem, self.form = problem, problem.form
        round_ = partial(_rounded, dtype=dtype)
        self.psi = flat(round_(problem.psi))
        self.theta0 = flat(round_(problem.theta0))
        self.data = jax.tree.map(jnp.asarray, round_(problem.inner | {"unit": np.asarray(unit)}))
        self.space = smooth_space(problem)
        largest = [np.max(np.abs(self._values(self.theta0)))]
        start = self.theta0
        if self.form.constraint:
            step = 1 / (2 * largest[0])
            start, self.space = _active(problem, jnp.asarray(start), self.psi, self.data, step)
        else:
            start = _descend(self.form, start, self.psi, self.data, self.space)
        self.theta = np.asarray(self._polished(start)[0])
        if problem.fitted:
            x, noise = problem.outer["x"], np.random.default_rng(0).normal(size=10)
            problem.outer["y"] = x @ self.theta + 1e-3 * noise
            problem.fitted = False
        if problem.facts.get("warm"):
            problem.theta0 = shaped(self.form.theta, self.theta)
            self.theta0 = flat(round_(problem.theta0))
            problem.facts["warm"] = False
        self.outer = jax.tree.map(jnp.asarray, round_(problem.outer))
        largest += [np.max(np.abs(self._values(self.theta)))]
        self.curvature = float(max(largest))

    def _values(self, theta):
        return _decomposed(self.form, jnp.asarray(theta), self.psi, self.data, self.space)[1]

    def _polished(self, theta):
        return _polish(self.form, jnp.asarray(theta), self.psi, self.data, self.space)

    def right(self, theta, damping: float) -> Right:
        """The hypergradient at the stationary point that belongs to a solver's theta."""
        return self._at(self._stationary(np.asarray(theta, np.float64)), damping)

    def _stationary(self, theta):
        if self.problem.convex or not np.all(np.isfinite(theta)):
            return self.theta
        polished = np.asarray(self._polished(theta)[0])
        if np.linalg.norm(polished - theta) <= 0.05 * np.linalg.norm(polished):
            return polished
        found = _descend(self.form, jnp.asarray(theta), self.psi, self.data, self.space)
        return np.asarray(self._polished(found)[0])

    def _at(self, theta, damping) -> Right:
        direct, implicit, curved, values, inside = map(
            np.asarray,
            _differentiate(
                self.form, jnp.asarray(theta), self.psi, self.data, self.outer, self.space, damping
            ),
        )
        grad = direct + implicit
        parts = np.linalg.norm(direct) + np.linalg.norm(implicit)
        scale = max(np.linalg.norm(grad), 1e-4 * parts, 1e-5 * np.linalg.norm(curved))
        return Right(grad, theta, float(scale), _kind(values, round(float(inside))))


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
