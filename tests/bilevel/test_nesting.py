"""argmin within argmin, derivatives of derivatives, and forward mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel import argmin, hypergradient
from bilevel.inverse_hvp import CG, Dense
from bilevel.solvers import Newton

RNG = np.random.default_rng(0)
A, B, C = (RNG.normal(size=s) for s in ((3, 3), (3, 4), (4, 2)))


def lower(x, y):
    """x* = (I + A^T A)^-1 A^T B y."""
    a, b = jnp.asarray(A), jnp.asarray(B)
    return 0.5 * jnp.sum((a @ x - b @ y) ** 2) + 0.5 * jnp.sum(x**2)


def solve_lower():
    return np.linalg.solve(np.eye(3) + A.T @ A, A.T @ B)


def solve_middle():
    """y* = (M^T M + 1/2 I)^-1 (1/2) C z, with x* = M y."""
    m = solve_lower()
    return np.linalg.solve(m.T @ m + 0.5 * np.eye(4), 0.5 * C)


@pytest.mark.parametrize("inverse", [CG(), Dense()], ids=["CG", "Dense"])
def test_three_levels_equal_the_closed_form(inverse, x64):
    fit_lower = argmin(lower, solver=Newton(inverse), inverse_hvp=inverse)

    def middle(y, z):
        x = fit_lower(y, jnp.zeros(3))
        return 0.5 * jnp.sum(x**2) + 0.25 * jnp.sum((y - jnp.asarray(C) @ z) ** 2)

    def top(y, z):
        return jnp.sum(y**3) + jnp.sum(z)

    z = jnp.array([0.7, -0.4])
    y = solve_middle() @ np.asarray(z)
    expected = solve_middle().T @ (3 * y**2) + 1
    compute = hypergradient(top, middle, solver=Newton(inverse), inverse_hvp=inverse)
    h = jax.jit(compute)(z, jnp.zeros(4))
    np.testing.assert_allclose(h.theta, y, rtol=1e-8)
    np.testing.assert_allclose(h.grad, expected, rtol=1e-6)
    fit_middle = argmin(middle, solver=Newton(inverse), inverse_hvp=inverse)
    grad = jax.grad(lambda z: top(fit_middle(z, jnp.zeros(4)), z))(z)
    np.testing.assert_allclose(grad, expected, rtol=1e-6)


def quartic(theta, psi):
    """Not quadratic, so that theta* has second derivatives: theta + theta^3 = psi."""
    return jnp.sum(0.5 * theta**2 + 0.25 * theta**4 - psi * theta)


def derivatives(theta):
    slope = 1 / (1 + 3 * theta**2)
    return slope, -6 * theta * slope**3


@pytest.mark.parametrize("forward_mode", [False, True])
def test_second_derivatives(forward_mode, x64):
    fit = argmin(quartic, solver=Newton(steps=10), forward_mode=forward_mode)
    theta = jnp.array([0.5, -1.0])
    psi = theta + theta**3

    def value(psi):
        return jnp.sum(fit(psi, jnp.zeros(2)))

    first, second = derivatives(theta)
    np.testing.assert_allclose(jax.grad(value)(psi), first, rtol=1e-8)
    hessian = jax.jit(jax.jacfwd(jax.grad(value)))(psi)
    np.testing.assert_allclose(hessian, jnp.diag(second), rtol=1e-7, atol=1e-9)
    again = jax.jacrev(jax.grad(value))(psi)
    np.testing.assert_allclose(again, jnp.diag(second), rtol=1e-7, atol=1e-9)


def test_jacobians_of_theta(x64):
    """Many right-hand sides at once, in either mode."""
    fit = argmin(lower, solver=Newton())
    both = argmin(lower, solver=Newton(), forward_mode=True)
    y = jnp.ones(4)
    expected = solve_lower()
    np.testing.assert_allclose(jax.jacrev(lambda y: fit(y, jnp.zeros(3)))(y), expected, rtol=1e-8)
    np.testing.assert_allclose(jax.jacfwd(lambda y: both(y, jnp.zeros(3)))(y), expected, rtol=1e-8)
    np.testing.assert_allclose(jax.jacrev(lambda y: both(y, jnp.zeros(3)))(y), expected, rtol=1e-8)
    tangent = jax.jvp(lambda y: both(y, jnp.zeros(3)), (y,), (jnp.arange(4.0),))[1]
    np.testing.assert_allclose(tangent, expected @ np.arange(4.0), rtol=1e-8)


def test_forward_mode_must_be_asked_for(x64):
    fit = argmin(quartic, solver=Newton(steps=10))
    with pytest.raises(TypeError, match="forward_mode=True"):
        jax.jvp(lambda psi: fit(psi, jnp.zeros(2)), (jnp.ones(2),), (jnp.ones(2),))


def test_forward_mode_warns_of_theta0(x64):
    fit = argmin(quartic, solver=Newton(steps=10), forward_mode=True)
    with pytest.warns(UserWarning, match="theta0 is zero by construction"):
        tangent = jax.jvp(lambda t: fit(jnp.ones(2), t), (jnp.zeros(2),), (jnp.ones(2),))[1]
    np.testing.assert_array_equal(tangent, 0)


def test_an_inner_loss_with_a_rule_of_its_own(x64):
    """A custom_vjp in the inner loss has no forward mode; the mixed derivative does without."""

    @jax.custom_vjp
    def cube(x):
        return x**3

    cube.defvjp(lambda x: (x**3, x), lambda x, c: (3 * x**2 * c,))

    def inner(theta, psi):
        return jnp.sum(0.5 * theta**2 + 0.1 * cube(theta) * psi - psi * theta)

    def plain(theta, psi):
        return jnp.sum(0.5 * theta**2 + 0.1 * theta**3 * psi - psi * theta)

    grads = [
        hypergradient(lambda t, p: jnp.sum(t**2), loss, solver=Newton(steps=8))(
            jnp.array([0.3, -0.2]), jnp.zeros(2)
        ).grad
        for loss in (inner, plain)
    ]
    np.testing.assert_allclose(*grads, rtol=1e-12)
