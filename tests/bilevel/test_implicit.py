"""Derivatives of hypergradients and of what comes with them, and of what solvers hold."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel import argmin, hypergradient, implicit_grad
from bilevel.inverse_hvp import CG, SGD, Dense, Identity, Neumann
from bilevel.solvers import LBFGS, GradientDescent, Newton, ProjectedGradient, ProximalGradient

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(6, 2)), RNG.normal(size=6)


def inner(theta, psi):
    error = jnp.asarray(A, theta.dtype) @ theta - jnp.asarray(B, theta.dtype)
    return 0.5 * jnp.mean(error**2) + 0.5 * jnp.exp(psi) * jnp.sum(theta**2)


def outer(theta, psi):
    return jnp.sum(jnp.sin(theta)) + psi**2


def star(psi):
    a, b = jnp.asarray(A), jnp.asarray(B)
    return jnp.linalg.solve(a.T @ a / 6 + jnp.exp(psi) * jnp.eye(2), a.T @ b / 6)


def value(psi):
    return outer(star(psi), psi)


def by_hand(loss, theta):
    return theta - jnp.linalg.solve(jax.hessian(loss)(theta), jax.grad(loss)(theta))


def constant(loss, theta):
    return theta  # right where theta0 is


SOLVERS = {
    "Newton, cold": Newton(Dense()),
    "LBFGS, cold": LBFGS(),
    "LBFGS, warm": LBFGS(),
    "descent to a tolerance, warm": GradientDescent(optax.sgd(0.5), 2000, tol=1e-12),
    "a callable, cold": by_hand,
    "a constant callable, warm": constant,
}


class TestOfHypergradients:
    """Their derivatives are those of the closed form, wherever the solver starts."""

    @pytest.mark.parametrize("name", SOLVERS)
    def test_in_both_modes(self, name, x64):
        psi = jnp.asarray(0.3)
        theta0 = star(psi) if name.endswith("warm") else jnp.zeros(2)
        solver = SOLVERS[name]

        def first(psi):
            h = hypergradient(outer, inner, solver=solver, inverse_hvp=Dense())(psi, theta0)
            return h.value, h.grad

        expected = jax.grad(value)(psi), jax.hessian(value)(psi)
        np.testing.assert_allclose(jax.jacfwd(first)(psi), expected, rtol=1e-6)
        np.testing.assert_allclose(jax.jacrev(first)(psi), expected, rtol=1e-6)

    def test_of_theta_itself(self, x64):
        psi = jnp.asarray(0.3)
        theta = lambda p: hypergradient(outer, inner, solver=LBFGS())(p, jnp.zeros(2)).theta  # noqa: E731
        expected = jax.jacfwd(star)(psi)
        np.testing.assert_allclose(jax.jacfwd(theta)(psi), expected, rtol=1e-6)
        np.testing.assert_allclose(jax.jacrev(theta)(psi), expected, rtol=1e-6)

    def test_a_hessian_of_the_outer_problem(self, x64):
        """What an outer Newton method takes: psi of two numbers, theta* not linear in psi."""

        def loss(theta, psi):
            return jnp.sum(0.5 * theta**2 + 0.25 * theta**4 - psi * theta)

        theta = jnp.array([0.5, -1.0])  # theta + theta^3 = psi
        grad = implicit_grad(lambda t, p: jnp.sum(t**2), loss, solver=Newton(steps=10))
        slope = 1 / (1 + 3 * theta**2)
        expected = jnp.diag(2 * slope**2 - 12 * theta**2 * slope**3)
        for jacobian in (jax.jacfwd, jax.jacrev):
            found = jax.jit(jacobian(lambda p: grad(p, jnp.zeros(2))))(theta + theta**3)
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)

    def test_along_outer_and_inner_arguments(self, x64):
        """theta* = c psi / (1 + c), and the outer loss a theta^2 / 2."""

        def loss(theta, psi, c):
            return 0.5 * c * (theta - psi) ** 2 + 0.5 * theta**2

        def gradient(a, c):
            return implicit_grad(lambda t, p, a: 0.5 * a * t**2, loss, solver=LBFGS())(
                jnp.asarray(2.0), jnp.asarray(0.0), outer_args=(a,), inner_args=(c,)
            )

        at = (jnp.asarray(3.0), jnp.asarray(0.5))
        closed = lambda a, c: a * 2.0 * (c / (1 + c)) ** 2  # noqa: E731
        for derivative in (jax.jacfwd, jax.jacrev):
            found = derivative(gradient, argnums=(0, 1))(*at)
            expected = derivative(closed, argnums=(0, 1))(*at)
            np.testing.assert_allclose(found, expected, rtol=1e-7)

    def test_through_another_projection(self, x64):
        """Where a constraint is active theta* does not move, and no derivative does."""
        box = ProjectedGradient(lambda t, p: jnp.clip(t, -1, 1), 0.3)
        grad = implicit_grad(
            lambda t, p: jnp.sum(t**3), lambda t, p: jnp.sum((t - p**2) ** 2), solver=box,
            inverse_hvp=Dense(),
        )  # fmt: skip
        psi = jnp.array([0.5, 2.0])
        hessian = jax.jacfwd(lambda p: grad(p, jnp.zeros(2)))(psi)
        expected = np.diag([30 * 0.5**4, 0.0])  # of psi^6, and of the constant 1
        np.testing.assert_allclose(hessian, expected, atol=1e-7)

    def test_v0_and_theta0_have_none(self, x64):
        compute = implicit_grad(outer, inner, solver=LBFGS())
        psi = jnp.asarray(0.3)
        grad = jax.jacrev(lambda v: compute(psi, jnp.zeros(2), v0=v))(jnp.ones(2))
        np.testing.assert_array_equal(grad, 0)
        for jacobian in (jax.jacfwd, jax.jacrev):
            with pytest.warns(UserWarning, match="theta0 is zero by construction"):
                grad = jacobian(lambda t: compute(psi, t))(jnp.zeros(2))
            np.testing.assert_array_equal(grad, 0)


def loss(theta, psi):
    return jnp.sum((theta - psi) ** 2)


def descent(s):
    def solve(loss, theta):
        return jax.lax.fori_loop(0, 60, lambda _, t: t - s * jax.grad(loss)(t), theta)

    return solve


def identity(theta, psi, step_size):
    return theta


SETTINGS = {
    "rate": lambda s: {"solver": GradientDescent(optax.sgd(s), 60)},
    "rate of a momentum": lambda s: {"solver": GradientDescent(optax.sgd(0.2, s), 60)},
    "scale": lambda s: {"solver": GradientDescent(optax.sgd(0.9), 60, scale=s)},
    "schedule": lambda s: {
        "solver": GradientDescent(optax.sgd(lambda count: s / (1 + 0.01 * count)), 99)
    },
    "tol of descent": lambda s: {"solver": GradientDescent(optax.sgd(0.2), 60, tol=1e-4 * s)},
    "tol of LBFGS": lambda s: {"solver": LBFGS(tol=1e-4 * s)},
    "tol of Newton": lambda s: {"solver": Newton(tol=s)},
    "rtol of Newton's CG": lambda s: {"solver": Newton(CG(rtol=1e-4 * s))},
    "step size": lambda s: {"solver": ProximalGradient(identity, s)},
    "a callable's rate": lambda s: {"solver": descent(s)},
    "damping": lambda s: {"inverse_hvp": CG(damping=1e-3 * s)},
    "rate of SGD": lambda s: {"inverse_hvp": SGD(optax.sgd(s), 60)},
    "step size of Neumann": lambda s: {"inverse_hvp": Neumann(60, step_size=s)},
    "multiple of the identity": lambda s: {"inverse_hvp": Identity(scale=s)},
}

FORWARDS = ("scale", "tol of LBFGS", "a callable's rate", "damping", "step size")


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_have_no_derivative(name, unchecked):
    """The solution does not depend on how it is found; but psi still moves it."""

    def total(s, psi, forward_mode):
        settings = {"solver": Newton(Dense()), "inverse_hvp": Dense()} | SETTINGS[name](s)
        fit = argmin(loss, forward_mode=forward_mode, **settings)
        return jnp.sum(fit(psi, jnp.zeros(2)) ** 2)

    psi = jnp.array([1.0, 2.0])
    to_s, to_psi = jax.grad(total, argnums=(0, 1))(jnp.asarray(0.3), psi, False)
    # The step size stands in the fixed point, too, where a residual is left.
    assert to_s == 0 or name == "step size" and abs(to_s) < 1e-5
    right = 1.2 * psi if name == "multiple of the identity" else 2 * psi  # 0.3 for 1 / 2
    np.testing.assert_allclose(to_psi, right, rtol=5e-3)
    if name in FORWARDS:
        forwards = jax.jacfwd(total)(jnp.asarray(0.3), psi, True)
        assert forwards == 0 or name == "step size" and abs(forwards) < 1e-5


def shrink(s):
    return lambda t, p, step: jnp.sign(t) * jnp.maximum(jnp.abs(t) - step * s, 0)


PROJECTIONS = {
    "box": (lambda s: ProjectedGradient(lambda t, p: jnp.clip(t, -s, s), 0.3), 2.0),
    "ball": (
        lambda s: ProjectedGradient(lambda t, p: t * jnp.minimum(1, s / jnp.linalg.norm(t)), 0.3),
        2**0.5,
    ),
    "half-space": (
        lambda s: ProjectedGradient(
            lambda t, p: t - jnp.maximum(jnp.sum(t) - s, 0) / jnp.asarray(t.size, t.dtype), 0.3
        ),
        1.0,
    ),
    "threshold": (lambda s: ProximalGradient(shrink(s), 0.3), -1.0),
    "the step size of a threshold": (
        lambda s: ProximalGradient(lambda t, p, r: shrink(0.4)(t, p, r), s), 0.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "name, way",
    [(name, "argmin") for name in PROJECTIONS]
    + [(name, "hypergradient") for name in ("ball", "threshold")],
)
def test_projections_have_one(name, way, x64):
    """They are part of the problem: theta* is at the bound that they close over."""
    make, expected = PROJECTIONS[name]
    start = jnp.full(2, 0.1)

    def total(s, forward_mode):
        if way == "argmin":
            fit = argmin(loss, solver=make(s), inverse_hvp=Dense(), forward_mode=forward_mode)
            return jnp.sum(fit(jnp.ones(2), start))
        compute = hypergradient(lambda t, p: jnp.sum(t), loss, solver=make(s), inverse_hvp=Dense())
        return compute(jnp.ones(2), start).value

    at = jnp.asarray(0.3)
    np.testing.assert_allclose(jax.grad(total)(at, False), expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(jax.jacfwd(total)(at, True), expected, rtol=1e-6, atol=1e-9)
    if name == "box":
        compiled = jax.jit(jax.grad(total), static_argnums=1)(at, False)
        np.testing.assert_allclose(compiled, expected, rtol=1e-6)


def test_psi_and_a_setting_at_once(x64):
    """A rate that is psi, too: only the way through the loss counts."""

    def total(s):
        fit = argmin(lambda t, p: jnp.sum((t - p) ** 2), solver=GradientDescent(optax.sgd(s), 99))
        return jnp.sum(fit(s * jnp.ones(2), jnp.zeros(2)) ** 2)

    np.testing.assert_allclose(jax.grad(total)(jnp.asarray(0.3)), 4 * 0.3, rtol=1e-6)


def test_unused_psi_warns():
    """A derivative that is zero because psi does not occur at all is a mistake, and is told."""
    start, psi = jnp.zeros(2), jnp.ones(2)

    def deaf(theta, psi):
        return jnp.sum((theta - 1.5) ** 2)

    def cut(theta, psi):
        return jnp.sum((theta - jax.lax.stop_gradient(psi)) ** 2)

    for inner in (deaf, cut):
        compute = implicit_grad(lambda t, p: jnp.sum(t), inner, solver=Newton())
        with pytest.warns(UserWarning, match="inner does not depend on psi"):
            compute(psi, start)
        with pytest.warns(UserWarning, match="inner does not depend on psi"):
            jax.jit(compute)(psi, start)
        with pytest.warns(UserWarning, match="check that outer and inner are not swapped"):
            fit = argmin(inner, solver=Newton())
            jax.grad(lambda p, f=fit: jnp.sum(f(p, start)))(psi)


def test_psi_that_does_something_is_not_warned_about():
    """Not where its derivative happens to vanish, and not where only the prox uses it."""
    start = jnp.zeros(2)
    implicit_grad(
        lambda t, p: jnp.sum(t), lambda t, p: jnp.sum((t - p**2 - 1) ** 2), solver=Newton()
    )(jnp.zeros(2), start)
    unused = lambda t, p: jnp.sum((t - 1) ** 2)  # noqa: E731
    solver = ProximalGradient(lambda t, p, s: shrink(p)(t, p, s), 0.3)
    for run in (lambda f: f, jax.jit):
        compute = run(implicit_grad(lambda t, p: jnp.sum(t), unused, solver=solver))
        np.testing.assert_allclose(compute(jnp.asarray(0.5), start), -1, rtol=1e-4)
    fit = argmin(unused, solver=solver)
    grad = jax.grad(lambda p: jnp.sum(fit(p, start)))(jnp.asarray(0.5))
    np.testing.assert_allclose(grad, -1, rtol=1e-4)
    # A penalty so large that theta* is 0 and does not move.
    grad = implicit_grad(lambda t, p: jnp.sum(t), unused, solver=solver)(jnp.asarray(9.0), start)
    assert grad == 0
