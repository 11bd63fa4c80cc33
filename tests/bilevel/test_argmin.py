"""argmin as an operator: its cotangents reach everything, and compose."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel import argmin, implicit_grad
from bilevel.inverse_hvp import CG, SGD, Dense
from bilevel.solvers import GradientDescent, Newton


def test_equals_the_dense_solve(problem, close):
    fit = argmin(problem.inner, solver=Newton(Dense(), 6), inverse_hvp=Dense())
    theta = fit(problem.psi, problem.theta0)
    close(theta, problem.theta(problem.psi))
    grad = jax.grad(lambda psi: problem.outer(fit(psi, problem.theta0), psi))(problem.psi)
    close(grad, problem.gradient)


def test_cotangents_of_all_that_the_loss_depends_on(x64, close):
    """theta* = (a b + c d) / (b + d + e) in closed form: e closed over, b and c inner arguments."""
    values = {"a": 1.3, "b": 0.7, "c": -0.4, "d": 2.0, "e": 0.3}
    values = jax.tree.map(jnp.asarray, values)

    def closed_form(values):
        a, b, c, d, e = (values[name] for name in "abcde")
        return jnp.sin((a * b + c * d) / (b + d + e))

    def operator(values):
        e = values["e"]

        def inner(theta, psi, b, args):
            return b * (theta - psi["a"]) ** 2 + psi["d"] * (theta - args["c"]) ** 2 + e * theta**2

        fit = argmin(inner, solver=Newton())
        psi = {"a": values["a"], "d": values["d"], "n": 3}
        return jnp.sin(fit(psi, jnp.asarray(0.0), values["b"], {"c": values["c"]}))

    close(operator(values), closed_form(values), 1e-9)
    expected = jax.grad(closed_form)(values)
    close(jax.grad(operator)(values), expected)
    close(jax.grad(jax.jit(operator))(values), expected)
    close(jax.jit(jax.grad(operator))(values), expected)
    stacked = jax.tree.map(lambda v: jnp.stack([v, 1.1 * v]), values)
    close(jax.tree.map(lambda g: g[0], jax.vmap(jax.grad(operator))(stacked)), expected)


def test_it_composes_with_itself(x64):
    """The solution of one problem is the psi of the next."""
    first = argmin(lambda t, p: jnp.sum((t - jnp.sin(p)) ** 2), solver=Newton())
    second = argmin(lambda t, p: jnp.sum((t - p**2) ** 2) + jnp.sum(t**2), solver=Newton())
    zero = jnp.zeros(2)
    psi = jnp.array([0.5, 1.0])
    grad = jax.grad(lambda p: jnp.sum(second(first(p, zero), zero)))(psi)
    np.testing.assert_allclose(grad, jnp.sin(psi) * jnp.cos(psi), rtol=1e-8)


def test_it_stands_inside_an_outer_loss(ridge_problem, close):
    """A hypergradient whose outer loss holds another argmin."""
    fit = argmin(ridge_problem.inner, solver=Newton())
    grad = implicit_grad(
        lambda theta, psi: ridge_problem.outer(fit(psi, ridge_problem.theta0), psi) + 0 * theta,
        lambda theta, psi: theta**2 + 0 * jnp.sum(psi),
        solver=Newton(),
    )(ridge_problem.psi, jnp.asarray(1.0))
    close(grad, ridge_problem.gradient)


class Line(eqx.Module):
    slope: jax.Array
    activation: object = jnp.tanh
    degree: int = 1


def test_modules_with_static_leaves(x64, close):
    fit = argmin(lambda t, p: jnp.sum((t.slope - p.slope) ** 2), solver=Newton())
    theta0, psi = Line(jnp.zeros(2)), Line(jnp.array([1.0, 2.0]))
    theta = fit(psi, theta0)
    assert theta.activation is jnp.tanh and theta.degree == 1
    grad = eqx.filter_grad(lambda p: jnp.sum(fit(p, theta0).slope ** 3))(psi)
    close(grad.slope, 3 * psi.slope**2)
    assert grad.activation is None and grad.degree is None


def test_part_of_theta_may_go_unused(x64):
    fit = argmin(lambda t, p: (t["a"] - p) ** 2 + (t["b"] - 2 * p) ** 2, solver=Newton())
    zero = {"a": jnp.zeros(()), "b": jnp.zeros(())}
    np.testing.assert_allclose(jax.grad(lambda p: fit(p, zero)["b"])(1.0), 2, rtol=1e-9)


def test_theta0_has_no_derivative_and_says_so():
    fit = argmin(lambda t, p: jnp.sum((t - p) ** 2), solver=Newton())

    def loss(psi, theta0):
        return jnp.sum(fit(psi, theta0) ** 2)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.grad(loss)(jnp.ones(2), jnp.zeros(2))
    with pytest.warns(UserWarning, match="theta0 is zero by construction"):
        grad = jax.grad(loss, argnums=1)(jnp.ones(2), jnp.zeros(2))
    np.testing.assert_array_equal(grad, jnp.zeros(2))


def test_keys(x64, getkey):
    def inner(theta, psi, *, key):
        return 0.5 * jnp.sum((1 + 0.1 * jax.random.normal(key, (2,))) * (theta - psi) ** 2)

    fit = argmin(
        inner,
        solver=GradientDescent(optax.sgd(0.1), 150),
        inverse_hvp=SGD(optax.sgd(0.1), 150),
    )

    @jax.jit
    def grad(key):
        return jax.grad(lambda p: 0.5 * jnp.sum(fit(p, jnp.zeros(2), key=key) ** 2))(psi)

    psi = jnp.array([1.0, 2.0])
    grads = jax.vmap(grad)(jax.random.split(getkey(), 64))
    np.testing.assert_allclose(jnp.mean(grads, axis=0), psi, atol=0.08)
    assert jnp.std(grads[:, 0]) > 0.01


def test_a_second_call_compiles_nothing(compilations):
    fit = argmin(lambda t, p: jnp.sum((t - p) ** 2), solver=Newton())
    grad = jax.grad(lambda p: jnp.sum(fit(p, jnp.zeros(2)) ** 2))
    one, two = jnp.ones(2), 2 * jnp.ones(2)
    grad(one)
    compiled = compilations()
    again = grad(two)
    assert compilations() == compiled
    np.testing.assert_allclose(again, 4, rtol=1e-5)


class TestThrow:
    def loss(self, throw):
        # Flat in one direction at the solution: the solve succeeds, the adjoint cannot.
        fit = argmin(
            lambda t, p: (t[0] - p) ** 2,
            solver=lambda loss, theta0: jnp.array([1.0, 0.0]),
            inverse_hvp=CG(),
            throw=throw,
        )
        return lambda p: jnp.sum(fit(p, jnp.zeros(2)))

    def test_raise(self):
        with pytest.raises(RuntimeError, match="non-positive curvature"):
            jax.grad(self.loss("raise"))(1.0)
        with pytest.raises(RuntimeError, match="non-positive curvature"):
            jax.block_until_ready(jax.jit(jax.grad(self.loss("raise")))(1.0))

    def test_warn(self):
        with pytest.warns(RuntimeWarning, match="non-positive curvature"):
            jax.grad(self.loss("warn"))(1.0)

    def test_ignore(self):
        assert jnp.isfinite(jax.grad(self.loss("ignore"))(1.0))

    def test_the_forward_solve(self):
        fit = argmin(lambda t, p: (t - p) ** 2, solver=GradientDescent(optax.sgd(1e30), 4))
        with pytest.raises(RuntimeError, match="learning rate of the inner solver"):
            fit(jnp.asarray(1.0), jnp.asarray(0.0))


def test_bad_input():
    fit = argmin(lambda t, p: jnp.sum((t - p) ** 2), solver=Newton())
    with pytest.raises(ValueError, match="psi holds no floating-point array"):
        fit(jnp.arange(2), jnp.zeros(2))
    with pytest.raises(ValueError, match=r"inner must return a scalar.*\(2,\)"):
        argmin(lambda t, p: (t - p) ** 2, solver=Newton())(jnp.ones(2), jnp.zeros(2))
