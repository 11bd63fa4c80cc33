"""Constrained and non-smooth inner problems: the fixed point against closed forms."""

import jax
import jax.numpy as jnp
import lineax
import numpy as np
import optax
import pytest

from bilevel import Result, argmin, hypergradient
from bilevel.inverse_hvp import CG, SGD, Dense, Lineax, Neumann, Nystrom
from bilevel.solvers import ProjectedGradient, ProximalGradient

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(30, 8)), RNG.normal(size=30)
X_VAL, Y_VAL = RNG.normal(size=(20, 8)), RNG.normal(size=20)
STEP = 30 / np.linalg.eigvalsh(X.T @ X)[-1]


def inner(theta, psi):
    return 0.5 * jnp.mean((jnp.asarray(X) @ theta - jnp.asarray(Y)) ** 2)


def outer(theta, psi):
    return 0.5 * jnp.mean((jnp.asarray(X_VAL) @ theta - jnp.asarray(Y_VAL)) ** 2)


def soft_threshold(theta, penalty, step_size):
    return jnp.sign(theta) * jnp.maximum(jnp.abs(theta) - step_size * penalty, 0)


def lasso_gradient(theta, penalty):
    """On the support S: d theta_S / d penalty = -(X_S^T X_S / n)^-1 sign(theta_S)."""
    support = np.flatnonzero(theta)
    x = X[:, support]
    change = -np.linalg.solve(x.T @ x / 30, np.sign(theta[support]))
    g = X_VAL[:, support].T @ (X_VAL @ theta - Y_VAL) / 20
    return g @ change


INVERSES = {
    "CG": CG(),
    "Dense": Dense(),
    "Neumann": Neumann(steps=3000, step_size=float(STEP), rtol=1e-10),
    "SGD": SGD(optax.sgd(float(STEP)), 3000, rtol=1e-10),
    "Lineax": Lineax(lineax.GMRES(1e-10, 1e-10, restart=8)),
    "Nystrom": Nystrom(rank=8),
}


@pytest.mark.parametrize("inverse", INVERSES)
def test_lasso_equals_its_closed_form(inverse, x64):
    solver = ProximalGradient(soft_threshold, float(STEP), tol=1e-12)
    compute = hypergradient(outer, inner, solver=solver, inverse_hvp=INVERSES[inverse])
    h = compute(jnp.asarray(0.15), jnp.zeros(8))
    theta = np.asarray(h.theta)
    assert 0 < np.count_nonzero(theta) < 8
    gradient = X.T @ (X @ theta - Y) / 30  # the optimality conditions of the lasso
    on = theta != 0
    np.testing.assert_allclose(gradient[on], -0.15 * np.sign(theta[on]), rtol=1e-9)
    assert np.all(np.abs(gradient[~on]) < 0.15)
    np.testing.assert_allclose(h.grad, lasso_gradient(theta, 0.15), rtol=1e-8)
    assert h.adjoint.result == Result.successful and h.inner.gradient_norm < 1e-11


def test_elastic_net_weighted_by_psi(x64, close):
    """psi reaches the smooth part, the proximal operator, and is a pytree; against differences."""

    def smooth(theta, psi):
        error = jnp.asarray(X) @ theta - jnp.asarray(Y)
        return 0.5 * jnp.mean(jax.nn.sigmoid(psi["weights"]) * error**2)

    def prox(theta, psi, step_size):
        shrunk = soft_threshold(theta, jnp.exp(psi["l1"]), step_size)
        return shrunk / (1 + step_size * jnp.exp(psi["l2"]))

    fit = argmin(smooth, solver=ProximalGradient(prox, float(STEP), tol=1e-13))
    psi = {"weights": jnp.zeros(30), "l1": jnp.full(8, -2.5), "l2": jnp.asarray(-2.0)}
    value = jax.jit(lambda psi: outer(fit(psi, jnp.zeros(8)), psi))
    grad = jax.grad(value)(psi)
    direction = jax.tree.map(lambda p: jnp.cos(jnp.arange(1.0, p.size + 1)).reshape(p.shape), psi)
    ahead, behind = (
        jax.tree.map(lambda p, d, s=s: p + s * d, psi, direction) for s in (1e-6, -1e-6)
    )
    along = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, grad, direction)))
    np.testing.assert_allclose(along, (value(ahead) - value(behind)) / 2e-6, rtol=1e-7)


PROJECTIONS = {
    "simplex": lambda theta, psi: optax.projections.projection_simplex(theta),
    "box": lambda theta, psi: optax.projections.projection_box(theta, -0.3, 0.3),
    "l2 ball of radius psi": lambda theta, psi: optax.projections.projection_l2_ball(
        theta, jnp.sum(psi**2)
    ),
}


@pytest.mark.parametrize("name", PROJECTIONS)
def test_projections_against_differences(name, x64):
    target = jnp.asarray(RNG.normal(size=(5, 3)))

    def loss(theta, psi):
        return 0.5 * jnp.sum((theta - target @ jnp.sin(psi)) ** 2) + 0.1 * jnp.sum(theta**2)

    solver = ProjectedGradient(PROJECTIONS[name], step_size=0.7, tol=1e-13)
    fit = argmin(loss, solver=solver)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # optax's
        value = jax.jit(lambda psi: jnp.sum(fit(psi, jnp.zeros(5)) ** 3))
        psi = jnp.array([0.5, 0.3, -0.4])
        grad = jax.grad(value)(psi)
        for i, direction in enumerate(jnp.eye(3)):
            ahead, behind = value(psi + 1e-6 * direction), value(psi - 1e-6 * direction)
            np.testing.assert_allclose(grad[i], (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-9)
        found = fit(psi, jnp.zeros(5))
        again = solver.prox(found, psi, jnp.asarray(0.7))
    np.testing.assert_allclose(found, again, atol=1e-12)


def test_forward_mode_is_the_transpose(x64):
    solver = ProximalGradient(soft_threshold, float(STEP), tol=1e-12)
    psi = jnp.full(8, 0.1)
    both = [
        jacobian(lambda p, m=mode: argmin(inner, solver=solver, forward_mode=m)(p, jnp.zeros(8)))(
            psi
        )
        for jacobian, mode in ((jax.jacfwd, True), (jax.jacrev, True), (jax.jacrev, False))
    ]
    assert np.linalg.norm(both[0]) > 0.1
    for other in both[1:]:
        np.testing.assert_allclose(other, both[0], atol=1e-8)


def test_a_key_makes_it_stochastic(x64, getkey):
    def noisy(theta, psi, *, key):
        return 0.5 * jnp.sum((theta - psi - 0.01 * jax.random.normal(key, (3,))) ** 2)

    compute = hypergradient(
        lambda t, p: jnp.sum(t**2),
        noisy,
        solver=ProximalGradient(lambda t, p, s: jnp.maximum(t, 0), 0.5, max_steps=60, tol=0.1),
        inverse_hvp=SGD(optax.sgd(0.5), 60),
    )
    h = compute(jnp.array([1.0, -1.0, 2.0]), jnp.zeros(3), key=getkey())
    np.testing.assert_allclose(h.grad, [2, 0, 4], atol=0.2)


def test_out_of_steps_is_reported(x64):
    solver = ProximalGradient(soft_threshold, float(STEP), max_steps=3)
    compute = hypergradient(outer, inner, solver=solver, throw="ignore")
    assert compute(jnp.asarray(0.15), jnp.zeros(8)).inner.result == Result.not_stationary


@pytest.mark.parametrize(
    "settings, match",
    [
        ({"step_size": 0.0}, "step_size=0.0 is not positive"),
        ({"step_size": 1.0, "max_steps": 0}, "max_steps=0 leaves no step"),
        ({"step_size": 1.0, "tol": -1.0}, "tol=-1.0 is negative"),
    ],
)
def test_bad_settings(settings, match, unchecked):
    with pytest.raises(ValueError, match=match):
        ProximalGradient(soft_threshold, **settings)
    with pytest.raises(ValueError, match=match):
        ProjectedGradient(PROJECTIONS["box"], **settings)


def test_a_prox_of_another_form():
    solver = ProximalGradient(lambda t, p, s: t[:2], 0.1)
    with pytest.raises(ValueError, match=r"prox returned a theta of .*\(2,\)"):
        solver(lambda theta: jnp.sum(theta**2), jnp.zeros(3))
