"""What the toolkit's tests share: problems with a dense answer, and a count of compilations."""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree


class Problem:
    """A bilevel problem, small enough to be solved by dense algebra."""

    def __init__(self, inner, outer, psi, theta0):
        self.inner, self.outer, self.psi, self.theta0 = inner, outer, psi, theta0

    def solution(self, psi):
        """theta*, by Newton's method on explicit Hessians."""
        flat, unravel = ravel_pytree(self.theta0)

        def loss(t):
            return self.inner(unravel(t), psi)

        def newton(_, t):
            return t - jnp.linalg.solve(jax.hessian(loss)(t), jax.grad(loss)(t))

        return jax.lax.fori_loop(0, 12, newton, flat), unravel

    @functools.partial(jax.jit, static_argnums=0)
    def theta(self, psi):
        flat, unravel = self.solution(psi)
        return unravel(flat)

    @functools.partial(jax.jit, static_argnums=0)
    def value(self, psi):
        flat, unravel = self.solution(psi)
        return self.outer(unravel(flat), psi)

    @functools.cached_property
    def gradient(self):
        """direct - cross^T H^-1 g, every matrix explicit."""
        return jax.jit(self._gradient)(self.psi)

    def _gradient(self, psi):
        theta, unravel = self.solution(psi)
        psi, unravel_psi = ravel_pytree(psi)

        def inner(t, p):
            return self.inner(unravel(t), unravel_psi(p))

        def outer(t, p):
            return self.outer(unravel(t), unravel_psi(p))

        v = jnp.linalg.solve(jax.hessian(inner)(theta, psi), jax.grad(outer)(theta, psi))
        cross = jax.jacobian(jax.grad(inner), argnums=1)(theta, psi)
        return unravel_psi(jax.grad(outer, argnums=1)(theta, psi) - cross.T @ v)

    def finite_difference(self, direction, step=1e-5):
        """The central difference of the outer loss, solved anew, along `direction`."""
        ahead = jax.tree.map(lambda p, d: p + step * d, self.psi, direction)
        behind = jax.tree.map(lambda p, d: p - step * d, self.psi, direction)
        return (self.value(ahead) - self.value(behind)) / (2 * step)


def quadratic():
    """theta in two leaves; psi changes the Hessian, the linear term and the outer loss."""
    rng = np.random.default_rng(0)
    root, right = rng.normal(size=(5, 5)), jnp.asarray(rng.normal(size=(5, 3)))
    matrix = jnp.asarray(root @ root.T / 5 + np.eye(5))

    def inner(theta, psi):
        t = jnp.concatenate([theta["a"], theta["b"].ravel()])
        curved = 0.5 * t @ matrix @ t + 0.5 * jnp.exp(psi["scale"]) * jnp.sum(t**2)
        return curved - t @ (right @ jnp.sin(psi["shift"]))

    def outer(theta, psi):
        return jnp.sum((theta["a"] - 1) ** 2) + jnp.sum(theta["b"] * psi["scale"]) ** 2

    psi = {"scale": jnp.asarray(0.3), "shift": jnp.asarray(rng.normal(size=3))}
    return Problem(inner, outer, psi, {"a": jnp.zeros(2), "b": jnp.zeros((3, 1))})


def regression():
    """Ridge regression with a penalty per feature; the outer loss is the validation error."""
    rng = np.random.default_rng(1)
    x, y = jnp.asarray(rng.normal(size=(12, 3))), jnp.asarray(rng.normal(size=12))
    x_val, y_val = jnp.asarray(rng.normal(size=(6, 3))), jnp.asarray(rng.normal(size=6))

    def inner(theta, psi):
        return 0.5 * jnp.mean((x @ theta - y) ** 2) + 0.5 * jnp.sum(jnp.exp(psi) * theta**2)

    def outer(theta, psi):
        return jnp.mean((x_val @ theta - y_val) ** 2)

    return Problem(inner, outer, jnp.asarray(rng.normal(size=3)), jnp.zeros(3))


def logistic():
    """Data weighting: not quadratic in theta."""
    rng = np.random.default_rng(2)
    x, x_val = jnp.asarray(rng.normal(size=(10, 2))), jnp.asarray(rng.normal(size=(5, 2)))
    y = jnp.asarray(np.sign(rng.normal(size=10)))

    def inner(theta, psi):
        losses = jax.nn.softplus(-y * (x @ theta))
        return jnp.mean(jax.nn.sigmoid(psi) * losses) + 0.1 * jnp.sum(theta**2)

    def outer(theta, psi):
        return jnp.mean(jax.nn.softplus(-(x_val @ theta))) + 0.01 * jnp.sum(psi**2)

    return Problem(inner, outer, jnp.asarray(rng.normal(size=10)), jnp.zeros(2))


PROBLEMS = {make.__name__: functools.cache(make) for make in (quadratic, regression, logistic)}


@pytest.fixture(params=PROBLEMS)
def problem(request, x64):
    return PROBLEMS[request.param]()


@pytest.fixture
def ridge_problem(x64):
    return PROBLEMS["regression"]()


@pytest.fixture
def close():
    """`close(one, other, tolerance)`: two trees of one structure agree, relative to their norm."""

    def check(one, other, tolerance=1e-8):
        assert jax.tree.structure(one) == jax.tree.structure(other)
        a, b = np.asarray(ravel_pytree(one)[0]), np.asarray(ravel_pytree(other)[0])
        assert np.linalg.norm(a - b) <= tolerance * max(np.linalg.norm(b), 1e-300), (a, b)

    return check


@pytest.fixture
def unchecked(monkeypatch):
    """Annotations unchecked, as in a user's program, to see the sentences for bad input."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


_compiled = 0


def _count(name, _, **kwargs):
    global _compiled
    _compiled += name.endswith("backend_compile_duration")


jax.monitoring.register_event_duration_secs_listener(_count)


@pytest.fixture
def compilations():
    """`compilations()` is how many programs XLA has compiled so far."""
    return lambda: _compiled
