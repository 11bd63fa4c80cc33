"""What a root or a fixed point is inverted by where nothing is named."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel import Result, fixed_point, hypergradient, root
from bilevel.inverse_hvp import CG
from bilevel.problems import FixedPoint, Root
from bilevel.solvers import Anderson, FixedPointIteration


def far_from_symmetric(size, condition):
    """A matrix with that condition number, whose normal equations have its square."""
    keys = jax.random.split(jax.random.key(0), 2)
    left, right = (jnp.linalg.qr(jax.random.normal(key, (size, size)))[0] for key in keys)
    return left * jnp.geomspace(1 / condition, 1.0, size)[None, :] @ right


def solution(matrix):
    def solve(F, theta0):
        return jnp.linalg.solve(matrix, -F(jnp.zeros_like(theta0)))

    return solve


def gradient(matrix, inverse_hvp=None):
    inner = Root(lambda theta, psi: matrix @ theta - psi)
    compute = hypergradient(
        lambda theta, psi: jnp.sum(theta),
        inner,
        solver=solution(matrix),
        inverse_hvp=inverse_hvp,
        throw="ignore",
    )
    size = matrix.shape[0]
    return compute(jnp.ones(size), jnp.zeros(size))


def test_a_root_in_float32_that_normal_equations_lose():
    """A condition number of 1e4: its square is beyond what float32 holds."""
    matrix = far_from_symmetric(40, 1e4)
    right = np.linalg.solve(np.asarray(matrix, np.float64).T, np.ones(40))
    found, before = gradient(matrix), gradient(matrix, CG())
    np.testing.assert_allclose(found.grad, right, rtol=0.02, atol=0.02 * np.abs(right).max())
    assert found.adjoint.result != Result.max_steps_reached
    assert not np.allclose(before.grad, right, rtol=0.02, atol=0.02 * np.abs(right).max())


@pytest.mark.parametrize("size", [30, 700])
@pytest.mark.parametrize("compiled", [False, True])
def test_small_and_large(x64, size, compiled):
    keys = jax.random.split(jax.random.key(1), 2)
    matrix = 0.5 * jax.random.normal(keys[0], (size, size)) / size**0.5
    weight = jax.random.normal(keys[1], (size,))

    def outer(psi):
        at = fixed_point(lambda theta, psi: matrix @ theta + psi, solver=Anderson(tol=1e-12))
        return weight @ at(psi, jnp.zeros(size))

    derivative = jax.jit(jax.grad(outer)) if compiled else jax.grad(outer)
    right = np.linalg.solve(np.eye(size) - np.asarray(matrix).T, weight)
    np.testing.assert_allclose(derivative(jnp.ones(size)), right, rtol=1e-8, atol=1e-8)


def test_members_of_a_batch_and_forward_mode(x64):
    def solve(scale, psi):
        at = root(
            lambda theta, psi: scale * theta + 0.1 * theta**3 - psi,
            solver=lambda F, theta0: _newton(F, theta0),
            forward_mode=True,
        )
        return at(psi, jnp.zeros(3))

    def _newton(F, theta):
        for _ in range(8):
            theta = theta - jnp.linalg.solve(jax.jacfwd(F)(theta), F(theta))
        return theta

    scales, psi = jnp.asarray([1.0, 2.0]), jnp.asarray([0.5, 1.0, 2.0])
    for mode in (jax.jacfwd, jax.jacrev):
        found = jax.vmap(lambda scale, mode=mode: mode(partial(solve, scale))(psi))(scales)
        for i, scale in enumerate(scales):
            theta = solve(scale, psi)
            np.testing.assert_allclose(
                found[i], np.diag(1 / (scale + 0.3 * theta**2)), rtol=1e-8, atol=1e-10
            )


def test_products_that_are_stochastic():
    """GMRES cannot take them: conjugate gradients can."""

    def f(theta, psi, *, key):
        return 0.3 * theta + psi + 0.0 * jax.random.normal(key, theta.shape)

    compute = hypergradient(
        lambda theta, psi: jnp.sum(theta), FixedPoint(f), solver=FixedPointIteration(),
        throw="ignore",
    )  # fmt: skip
    h = compute(jnp.ones(3), jnp.zeros(3), key=jax.random.key(0))
    np.testing.assert_allclose(h.grad, 1 / 0.7, rtol=1e-4)


def test_convolutions_run_in_no_xla_loop(monkeypatch):
    """On a CPU the loop of GMRES would be slow: it is not called, and nothing warns."""
    import bilevel.inverse_hvp._suited as suited

    monkeypatch.setattr(suited, "MOST_MATERIALISED", 10)
    kernel = 0.1 * jax.random.normal(jax.random.key(0), (1, 1, 3, 3))

    def f(theta, psi):
        image = theta.reshape(1, 1, 6, 6)
        return jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME").reshape(36) + psi

    at = fixed_point(f, solver=FixedPointIteration())
    found = jax.grad(lambda psi: jnp.sum(at(psi, jnp.zeros(36))))(jnp.ones(36))
    jacobian = jax.jacfwd(f)(jnp.zeros(36), jnp.ones(36))
    right = np.linalg.solve(np.eye(36) - np.asarray(jacobian).T, np.ones(36))
    np.testing.assert_allclose(found, right, rtol=1e-3)
