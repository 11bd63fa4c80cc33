"""Losses mean what they now do, whatever they did when they were first met."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel import (
    argmin,
    check_hypergradient,
    hypergradient,
    implicit_grad,
    minimize,
    root,
    unrolled_grad,
)
from bilevel.inverse_hvp import CG, Dense, FiniteDifference, Neumann
from bilevel.single_loop import SOBA
from bilevel.solvers import LBFGS, GradientDescent, Newton, NewtonCG

PSI, START = jnp.asarray(1.0), jnp.zeros(2)
SCALE = 1.0
DATA = np.ones(2, np.float32)


class Kept:
    scale = 1.0

    def inner(self, theta, psi):
        return jnp.sum((theta - self.scale * psi) ** 2)

    def outer(self, theta, psi):
        return self.scale * jnp.sum(theta**2) / 2


def by_global():
    def set_to(scale):
        global SCALE
        SCALE = scale

    set_to(1.0)

    def inner(theta, psi):
        return jnp.sum((theta - SCALE * psi) ** 2)

    return inner, lambda theta, psi: SCALE * jnp.sum(theta**2) / 2, set_to


def by_attribute():
    kept = Kept()
    return kept.inner, kept.outer, lambda scale: setattr(kept, "scale", scale)


def by_cell():
    scale = 1.0

    def set_to(new):
        nonlocal scale
        scale = new

    def inner(theta, psi):
        return jnp.sum((theta - scale * psi) ** 2)

    return inner, lambda theta, psi: scale * jnp.sum(theta**2) / 2, set_to


def in_place():
    data = DATA.copy()

    def inner(theta, psi):
        return jnp.sum((theta - data * psi) ** 2)

    return inner, lambda theta, psi: jnp.sum(data * theta**2) / 2, lambda scale: data.fill(scale)


def through_a_helper():
    held = {"scale": 1.0}

    def fitted(psi):
        return held["scale"] * psi

    def inner(theta, psi):
        return jnp.sum((theta - fitted(psi)) ** 2)

    return inner, lambda theta, psi: fitted(jnp.sum(theta**2)) / 2, lambda s: held.update(scale=s)


WAYS = [by_global, by_attribute, by_cell, in_place, through_a_helper]
# theta* = s psi, and outer(theta*, psi) = s^3 psi^2, whose derivative is 2 s^3.
DESCENT = GradientDescent(optax.sgd(0.25), 30)


def noisy(function):
    return lambda theta, psi, key: function(theta, psi) + 0 * jax.random.normal(key)


CALLS = {
    "Newton": lambda inner, outer: hypergradient(outer, inner, solver=Newton()),
    "LBFGS": lambda inner, outer: hypergradient(outer, inner, solver=LBFGS(), inverse_hvp=Dense()),
    "descent": lambda inner, outer: hypergradient(outer, inner, solver=DESCENT, throw="ignore"),
    "differences": lambda inner, outer: hypergradient(
        outer, inner, solver=NewtonCG(), inverse_hvp=FiniteDifference(), throw="ignore"
    ),
    "implicit_grad": lambda inner, outer: implicit_grad(outer, inner, solver=Newton()),
    "unrolled_grad": lambda inner, outer: unrolled_grad(outer, inner, solver=DESCENT),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CALLS)
def test_a_hypergradient_is_that_of_the_losses_as_they_are(name, way):
    inner, outer, set_to = way()
    compute = CALLS[name](inner, outer)
    for scale in (1.0, 2.0, 1.0):
        set_to(scale)
        found = compute(PSI, START)
        assert getattr(found, "grad", found) == pytest.approx(2 * scale**3, rel=1e-2)


@pytest.mark.parametrize("way", WAYS)
def test_so_are_a_solution_and_a_derivative_through_it(way):
    inner, outer, set_to = way()
    fit = argmin(inner, solver=Newton())
    set_to(2.0)
    fit(PSI, START)
    set_to(3.0)
    np.testing.assert_allclose(fit(PSI, START), 3.0, rtol=1e-6)
    assert jax.grad(lambda psi: outer(fit(psi, START), psi))(PSI) == pytest.approx(54, rel=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_so_are_a_root_a_minimum_and_a_check(way):
    inner, outer, set_to = way()
    solve = root(lambda theta, psi: jax.grad(inner)(theta, psi), solver=Newton())

    def target(theta, psi):
        return outer(theta, psi) + jnp.sum((psi - 1) ** 2)

    for scale in (1.0, 2.0):
        set_to(scale)
        np.testing.assert_allclose(solve(PSI, START), scale, rtol=1e-6)
        found = minimize(target, inner, PSI, START).psi
        assert found == pytest.approx(1 / (1 + scale**3), rel=1e-3)
        check = check_hypergradient(outer, inner, solver=Newton())
        assert check(PSI, START).passed


@pytest.mark.parametrize("way", WAYS)
def test_so_is_a_stochastic_loss(way):
    inner, outer, set_to = way()
    compute = hypergradient(outer, noisy(inner), solver=DESCENT, throw="ignore")
    for scale in (1.0, 2.0):
        set_to(scale)
        h = compute(PSI, START, key=jax.random.key(0))
        assert h.grad == pytest.approx(2 * scale**3, rel=1e-2)


@pytest.mark.parametrize("solver", [Newton(), NewtonCG(), LBFGS(), DESCENT], ids=repr)
@pytest.mark.parametrize("way", WAYS)
def test_so_is_a_loss_that_a_solver_is_handed(solver, way):
    inner, _, set_to = way()

    def loss(theta):
        return inner(theta, PSI)

    for scale in (1.0, 2.0):
        set_to(scale)
        np.testing.assert_allclose(solver(loss, START)[0], scale, rtol=1e-3)


@pytest.mark.parametrize("way", WAYS)
def test_so_are_the_losses_of_a_single_loop(way):
    inner, outer, set_to = way()
    loop = SOBA(outer, inner, theta=optax.sgd(0.5), psi=optax.sgd(0.0))
    state = loop.init(PSI, START)
    for scale in (1.0, 2.0):
        set_to(scale)
        state = loop.step(state)
        np.testing.assert_allclose(state.theta, scale, rtol=1e-5)


@pytest.mark.parametrize("inverse", [CG(), Dense(), Neumann(200, 0.1)], ids=repr)
@pytest.mark.parametrize("way", WAYS)
def test_so_is_an_operator(inverse, way):
    inner, _, set_to = way()

    def product(v):  # s^2 v
        return inner(jnp.zeros(2), PSI) * v / 2

    for scale in (1.0, 2.0):
        set_to(scale)
        np.testing.assert_allclose(inverse(product, jnp.ones(2)).v, 1 / scale**2, rtol=1e-4)
