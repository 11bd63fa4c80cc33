"""Settings together with transformations, for each inverse Hessian and both kinds of condition.

What is expected is written out by dense algebra, as a function that jax differentiates itself.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import numpy as np
import optax
import pytest
from jax import lax

from bilevel import implicit_grad, unrolled_value_and_grad
from bilevel.inverse_hvp import CG, SGD, Dense, Lineax, Neumann, Nystrom
from bilevel.solvers import GradientDescent, Newton, ProximalGradient

SIZE, STEP = 4, 0.1
RNG = np.random.default_rng(3)
ROOT, TARGET, WEIGHTS = RNG.normal(size=(SIZE, SIZE)), RNG.normal(size=SIZE), RNG.normal(size=SIZE)
PSI = np.array([0.3, 0.8, 0.5, 1.1])

INVERSES = {
    "CG": CG(),
    "CG with Nystrom": CG(preconditioner=Nystrom(rank=2)),
    "SGD": SGD(optax.sgd(0.15), 600, rtol=1e-10),
    "Neumann": Neumann(steps=900, rtol=1e-10),
    "Nystrom": Nystrom(rank=SIZE),
    "Dense": Dense(),
    "Lineax GMRES": Lineax(lineax.GMRES(1e-11, 1e-11, restart=SIZE)),
    "Lineax LU": Lineax(lineax.LU()),
}


def matrix(psi):
    return ROOT @ ROOT.T / 8 + jnp.diag(1 + psi**2)


def inner(theta, psi):
    return 0.5 * theta @ matrix(psi) @ theta - TARGET @ theta


def outer(theta, psi):
    return jnp.sum(jnp.sin(theta) * WEIGHTS) + jnp.sum(psi**3)


def shrink(theta, psi, step_size):
    return theta / (1 + step_size * psi)


def gradient_of(psi):
    return lambda theta: matrix(psi) @ theta - TARGET


def fixed_point_of(psi):
    gradient = gradient_of(psi)
    return lambda theta: (theta - shrink(theta - STEP * gradient(theta), psi, STEP)) / STEP


CONDITIONS = {
    "stationary": (Newton(Dense()), gradient_of),
    "fixed point": (ProximalGradient(shrink, STEP, max_steps=4000, tol=1e-13), fixed_point_of),
}


def expected(residual_of, damping, psi):
    """The hypergradient, whose adjoint and whose theta* (when it is differentiated in turn) come by
    the damped Jacobian; F is affine in theta.
    """
    residual, damp = residual_of(psi), damping * jnp.eye(SIZE)
    jacobian = jax.jacfwd(residual)(jnp.zeros(SIZE))
    theta = lax.stop_gradient(jnp.linalg.solve(jacobian, -residual(jnp.zeros(SIZE))))
    theta -= lax.stop_gradient(jnp.linalg.inv(jacobian + damp)) @ residual(theta)
    g, direct = jax.grad(outer, (0, 1))(theta, psi)
    v = jnp.linalg.solve(jacobian.T + damp, g)
    return direct - v @ jax.jacfwd(lambda psi: residual_of(psi)(theta))(psi)


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("inverse", INVERSES)
def test_damping_under_jit_vmap_and_a_second_derivative(inverse, condition, x64, close):
    solver, residual_of = CONDITIONS[condition]
    psi0 = jnp.asarray(PSI)

    def grad(psi, damping):
        method = eqx.tree_at(lambda at: at.damping, INVERSES[inverse], damping)
        compute = implicit_grad(outer, inner, solver=solver, inverse_hvp=method, throw="ignore")
        return compute(psi, jnp.zeros(SIZE))

    close(grad(psi0, 0.3), expected(residual_of, 0.3, psi0), 1e-6)
    psis, dampings = jnp.stack([psi0, psi0[::-1]]), jnp.array([0.0, 0.4])
    found = jax.jit(jax.vmap(grad))(psis, dampings)
    for row, psi, damping in zip(found, psis, dampings, strict=True):
        close(row, expected(residual_of, damping, psi), 1e-6)
    second = jax.jit(jax.jacfwd(grad))(psi0, 0.3)
    close(second, jax.jacfwd(partial(expected, residual_of, 0.3))(psi0), 1e-5)


@pytest.mark.parametrize("damping", [0.0, 0.3])
@pytest.mark.parametrize("size", [1e-6, 1.0])
@pytest.mark.parametrize(
    "method",
    [
        CG(max_steps=1, truncated=True),
        SGD(optax.sgd(0.01), 1),
        Neumann(steps=1, step_size=0.01),
        Lineax(lineax.GMRES(1e-9, 1e-9, max_steps=1)),
        Lineax(lineax.CG(1e-9, 1e-9, max_steps=1)),
        Lineax(lineax.BiCGStab(1e-9, 1e-9, max_steps=1)),
    ],
    ids=lambda method: type(getattr(method, "solver", method)).__name__,
)
def test_a_warm_start_is_where_the_solve_begins(method, size, damping, x64):
    """At the solution one step finds nothing to do; from zero it is far from enough."""
    hessian, g = matrix(jnp.asarray(PSI)), size * jnp.asarray(WEIGHTS)
    method = eqx.tree_at(lambda at: at.damping, method, damping)
    solution = jnp.linalg.solve(hessian + damping * jnp.eye(SIZE), g)
    warm, cold = method(lambda v: hessian @ v, g, v0=solution), method(lambda v: hessian @ v, g)
    assert warm.residual < 1e-8
    assert cold.residual > 1e-3
    np.testing.assert_allclose(warm.v, solution, rtol=1e-7)


@pytest.mark.parametrize("settings", [{"truncate": 2}, {"window": 2, "start": 3}, {"remat": 2}])
def test_what_is_differentiated_does_not_change_the_noise(settings, getkey):
    """A window's outer value is that of as many steps, each with the key that it always has."""

    def noisy(theta, psi, *, key):
        return 0.5 * jnp.sum((theta - psi - jax.random.normal(key, (2,))) ** 2)

    def value(theta, psi):
        return jnp.sum(theta)

    ended = settings.get("start", 3) + 2
    descent = GradientDescent(optax.sgd(0.5), steps=5)
    short = GradientDescent(optax.sgd(0.5), steps=ended)
    key, args = getkey(), (jnp.ones(2), jnp.zeros(2))
    some = unrolled_value_and_grad(value, noisy, solver=descent, **settings)(*args, key=key)[0]
    every = unrolled_value_and_grad(value, noisy, solver=short)(*args, key=key)[0]
    np.testing.assert_allclose(some, every, rtol=1e-6)
