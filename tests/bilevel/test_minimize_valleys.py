"""Where `minimize` may go astray: other valleys, values that are all rounding, small gradients."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel import Result, _outer, minimize


def wells(theta, psi):
    return jnp.sum(theta**4 / 4 - theta**2 / 2 - psi * theta)


def from_target(theta, psi, target):
    return jnp.sum((theta - target) ** 2)


@pytest.mark.parametrize("target", [0.8, 0.9])
@pytest.mark.parametrize("start", [0.1, 1.0, 3.0])
def test_a_step_too_long_does_not_leave_theta_in_another_valley(target, start):
    """Two wells each; the trial of too long a step ends in the wrong one."""
    psi = start * jnp.arange(1.0, 4.0)
    outer = partial(from_target, target=target)
    found = minimize(outer, wells, psi, jnp.ones(3), throw="ignore")
    assert found.result == Result.successful
    np.testing.assert_allclose(found.theta, target, rtol=1e-3)


def over_a_saddle(theta, psi):
    """A saddle at a = 0, where Newton's method for b alone takes theta first."""
    well = jnp.sum((theta["a"] ** 2 - 1) ** 2) / 4
    return 10 * jnp.sum((theta["b"] - psi) ** 2) + well + jnp.vdot(theta["a"], theta["b"]) / 100


def from_two_and_one(theta, psi):
    return jnp.sum((theta["b"] - 2) ** 2) + jnp.sum((theta["a"] - 1) ** 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 3])
def test_a_solve_that_stopped_at_a_saddle_goes_on(size, dtype):
    with jax.enable_x64(dtype is np.float64):
        theta = {"a": jnp.full(size, 1e-3, dtype), "b": jnp.zeros(size, dtype)}
        psi = jnp.full(size, 1.5, dtype)
        found = minimize(from_two_and_one, over_a_saddle, psi, theta, throw="ignore")
    assert found.result == Result.successful
    np.testing.assert_allclose(found.theta["b"], 2, atol=0.01)
    np.testing.assert_allclose(found.theta["a"], -1, atol=0.02)


def test_a_gradient_that_was_zero_for_want_of_accuracy_is_no_end(monkeypatch):
    compute = _outer.Outer._compute

    def blind(self, place, rtol, inner_rtol, verify=False):
        look = compute(self, place, rtol, inner_rtol, verify)
        if verify or not jnp.array_equal(place[0], self.start):
            return look
        return replace(look, gradient=0 * look.gradient, norm=0.0)

    monkeypatch.setattr(_outer.Outer, "_compute", blind)
    one = jnp.ones(1)
    found = minimize(from_two_and_one, over_a_saddle, one, {"a": one, "b": one})
    np.testing.assert_allclose(found.theta["b"], 2, atol=0.01)


def squares(theta, psi, x, y):
    return jnp.mean((x @ theta - y) ** 2)


def near(theta, psi, x, y):
    return squares(theta, psi, x, y) + jnp.sum((theta - psi) ** 2) / 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(3))
def test_a_gradient_that_vanishes_with_that_of_the_outer_loss_is_a_success(seed, dtype):
    """Close to its end all of the gradient is what theta is still off, and no longer counts."""
    draw = np.random.default_rng(seed)
    x, y = draw.normal(size=(60, 8)).astype(dtype), draw.normal(size=60).astype(dtype)
    with jax.enable_x64(dtype is np.float64):
        psi, theta = jnp.asarray(draw.normal(size=8), dtype), jnp.zeros(8, dtype)
        data = {"inner_args": (x[:30], y[:30]), "outer_args": (x[30:], y[30:])}
        found = minimize(squares, near, psi, theta, throw="ignore", **data)
    least = np.linalg.lstsq(x[30:].astype(float), y[30:].astype(float), rcond=None)[1][0] / 30
    assert found.result == Result.successful
    assert found.value == pytest.approx(least, rel=1e-4)


def gram(psi, left, right):
    apart = jnp.sum((left[:, None] - right[None]) ** 2, axis=2)
    return jnp.exp(-apart * jnp.exp(-2 * psi[0]) / 2)


def kernel_inner(theta, psi, x, y):
    of_kernel = theta @ gram(psi, x, x) @ theta / 2
    return of_kernel + jnp.exp(psi[1]) * theta @ theta / 2 - y @ theta


def kernel_outer(theta, psi, x, y, train):
    return jnp.mean((gram(psi, x, train) @ theta - y) ** 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(6))
def test_a_value_of_nothing_but_rounding_is_no_way_down(seed, dtype):
    """A length and a noise that go to infinity and to zero: the kernel is singular on the way."""
    draw = np.random.default_rng(seed)
    x, y = draw.normal(size=(60, 12)).astype(dtype), draw.normal(size=60).astype(dtype)
    y += x[:, :4].sum(1)
    with jax.enable_x64(dtype is np.float64):
        psi, theta = jnp.asarray([0.5, 0.0], dtype), jnp.zeros(30, dtype)
        data = {"inner_args": (x[:30], y[:30]), "outer_args": (x[30:], y[30:], x[:30])}
        found = minimize(kernel_outer, kernel_inner, psi, theta, throw="ignore", **data)
    with jax.enable_x64(True):
        psi, x, y = (jnp.asarray(np.asarray(each), jnp.float64) for each in (found.psi, x, y))
        dense = gram(psi, x[:30], x[:30]) + jnp.exp(psi[1]) * jnp.eye(30)
        value = kernel_outer(jnp.linalg.solve(dense, y[:30]), psi, x[30:], y[30:], x[:30])
        assert float(found.value) == pytest.approx(float(value), rel=1e-2)
    assert float(found.value) < found.values[0]


def separable(theta, psi, x):
    return jnp.mean(jnp.logaddexp(0, -x @ theta))


def test_a_loss_without_a_minimum_is_at_one_only_where_its_value_is_known():
    """Data that can be told apart: the penalty goes to zero, and theta to infinity."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(60, 12)) * np.exp(draw.normal(size=12) / 2)
    y = np.sign(x[:, :4].sum(1) + draw.normal(size=60) * np.exp(draw.normal()))
    units = 10.0 ** draw.uniform(-4, 4, size=2)
    x = (y[:, None] * x).astype(np.float32)

    def inner(theta, psi, x):
        fit = separable(theta, psi, x) + jnp.exp(psi) * jnp.sum(theta**2)
        return np.float32(units[0]) * fit

    def outer(theta, psi, x):
        return np.float32(units[1]) * separable(theta, psi, x)

    data = {"inner_args": (x[:30],), "outer_args": (x[30:],)}
    psi = jnp.asarray(draw.normal() - 3, jnp.float32)
    found = minimize(outer, inner, psi, jnp.zeros(12), throw="ignore", **data)
    distance = found.hypergradient.inner.distance
    assert distance is not None
    assert found.result != Result.successful or distance < 1e-2
    assert found.value < 0.2 * found.values[0]
