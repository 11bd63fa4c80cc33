"""A point at which the KKT conditions hold is a minimum, or is said not to be one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel import Result, argmin, hypergradient, minimize
from bilevel.inverse_hvp import Dense
from bilevel.problems import Constrained
from bilevel.solvers import InteriorPoint, Newton

TARGET = jnp.array([2.0, 0.0])


def near(theta, psi):
    return jnp.sum((theta - psi) ** 2) / 2


CIRCLE = Constrained(near, equality=lambda theta, psi: jnp.sum(theta**2) - 1)
PEAK_IN_A_BOX = Constrained(
    lambda theta, psi: -near(theta, psi),
    inequality=lambda theta, psi: jnp.concatenate([theta - 1, -1 - theta]),
)


@pytest.mark.parametrize("solver", [InteriorPoint(), Newton(Dense(), steps=20)])
def test_the_farthest_point_of_a_circle(x64, solver):
    target, far = TARGET.astype(float), jnp.array([-1.0, -0.1])
    with pytest.raises(RuntimeError, match="maximum or a saddle"):
        hypergradient(lambda t, p: t[0], CIRCLE, solver=solver)(target, far)
    with pytest.raises(RuntimeError, match="maximum or a saddle"):
        argmin(CIRCLE, solver=solver)(target, far)
    find = argmin(CIRCLE, solver=solver)
    theta, pull = jax.vjp(lambda p: find(p, -far), target)
    np.testing.assert_allclose(theta, [1, 0], atol=1e-8)
    # Of the projection onto the circle: along the tangent, by the distance of the target.
    np.testing.assert_allclose(pull(jnp.array([0.3, 1.0]))[0], [0, 0.5], atol=1e-8)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_maximum_is_never_called_a_solution(x64, dtype):
    """From random starts: a corner, in which nothing can move, or a word."""
    starts = np.random.default_rng(0).uniform(-0.9, 0.9, (20, 2))
    find = argmin(PEAK_IN_A_BOX, solver=InteriorPoint(), with_record=True, throw="ignore")
    found = jax.jit(jax.vmap(find, (None, 0)))(jnp.full(2, 0.5, dtype), jnp.asarray(starts, dtype))
    theta, record = found
    corner = np.all(np.abs(np.abs(theta) - 1) < 1e-3, axis=1)
    succeeded = np.asarray(record.result == Result.successful)
    told = np.asarray(record.result == Result.no_minimum)
    assert np.any(corner & succeeded) and np.any(told)
    assert not np.any(succeeded & ~corner) and not np.any(told & corner)


def test_what_constraints_hold_back_is_a_minimum(x64):
    """Negative curvature is none where no direction is left, or none of it in what is left."""
    corner = Constrained(lambda t, p: p @ t, inequality=lambda t, p: jnp.append(-t, sum(t) - 1))
    theta = argmin(corner, solver=InteriorPoint())(jnp.array([1.0, -2.0]), jnp.full(2, 0.3))
    np.testing.assert_allclose(theta, [0, 1], atol=1e-8)
    saddle = Constrained(
        lambda t, p: t[0] ** 2 - 3 * t[1] ** 2 + t[0] * p,
        equality=lambda t, p: {"twice": 1e-6 * (t[1] - t[0] / 4)},
    )
    gradient = jax.grad(lambda p: argmin(saddle, solver=InteriorPoint())(p, jnp.ones(2))[0])
    np.testing.assert_allclose(gradient(jnp.asarray(1.0)), -1 / (2 - 6 / 16), rtol=1e-8)


def test_redundant_and_contradictory_equalities_are_called_singular(x64):
    for right in (2.0, 3.0):
        twice = Constrained(
            near, equality=lambda t, p, r=right: jnp.stack([sum(t) - 1, 2 * sum(t) - r])
        )
        with pytest.raises(RuntimeError, match="constraints that say the same"):
            argmin(twice, solver=InteriorPoint())(jnp.ones(2), jnp.zeros(2))


@pytest.mark.parametrize("inverse", [None, Dense()])
def test_minimize_over_a_constrained_problem(x64, inverse):
    """Projections whose targets are moved until the projected points are where they should be."""
    project = Constrained(
        lambda t, p: near(t["x"], p["x"]) + near(t["y"], p["y"]),
        equality=lambda t, p: {"sum": jnp.sum(t["x"]) - 1},
        inequality=lambda t, p: [-t["x"], t["y"] - 2],
    )
    wanted = {"x": jnp.array([0.2, 0.5, 0.3]), "y": jnp.array([1.5, 1.8])}

    def outer(theta, psi):
        apart = sum(jnp.sum((theta[at] - wanted[at]) ** 2) for at in wanted)
        return apart + 1e-3 * jnp.sum(psi["y"] ** 2)

    start = {"x": jnp.ones(3) / 3, "y": jnp.ones(2)}
    found = minimize(outer, project, start, start, solver=InteriorPoint(), inverse_hvp=inverse)
    np.testing.assert_allclose(found.theta["x"], wanted["x"], atol=1e-4)
    np.testing.assert_allclose(found.psi["y"], wanted["y"] / 1.001, atol=1e-4)
    np.testing.assert_allclose(found.hypergradient.inner.multipliers.inequality[1], 0, atol=1e-8)


@pytest.mark.parametrize("modes", ["forward over reverse", "reverse over reverse"])
@pytest.mark.parametrize("forward_mode", [False, True])
@pytest.mark.parametrize("kind", ["two leaves", "multipliers"])
def test_second_derivatives_where_a_part_does_not_depend_on_psi(x64, kind, forward_mode, modes):
    if kind == "two leaves":
        theta0 = {"moves": jnp.zeros(2), "stays": jnp.zeros(3)}

        def inner(theta, psi):
            return near(theta["moves"], psi) + near(theta["stays"], 1.0)

        find = argmin(inner, solver=Newton(Dense(), steps=3), forward_mode=forward_mode)

        def expected(psi):
            return psi
    else:
        theta0 = jnp.zeros(2)
        flat = Constrained(near, equality=lambda theta, psi: jnp.sum(theta) - 1.0)
        find = argmin(flat, solver=Newton(Dense(), steps=3), forward_mode=forward_mode)

        def expected(psi):
            return psi - (jnp.sum(psi) - 1) / 2

    def value(solution):
        return lambda psi: jnp.sum(jax.tree.leaves(solution(psi))[0] ** 3)

    outer_mode = jax.jacfwd if modes.startswith("forward") else jax.jacrev
    psi = jnp.array([0.8, 0.6])
    hessian = outer_mode(jax.grad(value(lambda psi: find(psi, theta0))))(psi)
    np.testing.assert_allclose(hessian, jax.hessian(value(expected))(psi), atol=1e-9)
