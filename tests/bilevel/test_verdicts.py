"""`check_hypergradient` is right in its verdict: modules, constraints, and what it cannot judge."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel import Cause, check_hypergradient
from bilevel.inverse_hvp import CG, Dense
from bilevel.solvers import LBFGS, GradientDescent, Newton, ProjectedGradient


class Curve(eqx.Module):
    weight: jax.Array
    activation: object = jnp.tanh

    def __call__(self, x):
        return self.activation(self.weight * x)


X = jnp.linspace(-1.0, 1.0, 5)


@pytest.mark.parametrize("steps, right", [(2, False), (200, True)])
@pytest.mark.parametrize("where", ["theta", "psi"])
def test_modules_with_functions_in_them(where, steps, right):
    model = Curve(jnp.asarray(0.5))

    def fit(theta, psi):
        curve, number = (theta, psi) if where == "theta" else (psi, theta)
        near = jnp.sum((curve(X) - 0.5) ** 2) if where == "theta" else 0.0
        return near + 5 * (number - curve.weight) ** 2

    start, psi = (model, jnp.asarray(1.0)) if where == "theta" else (jnp.asarray(3.0), model)
    check = check_hypergradient(
        lambda t, p: jax.tree.leaves(eqx.filter(t, eqx.is_array))[0] ** 2, fit,
        solver=GradientDescent(optax.sgd(0.02), steps), inverse_hvp=Dense(),
    )(psi, start)  # fmt: skip
    assert check.passed == right
    if not right:
        assert check.causes[0] == Cause.not_stationary and "Likely cause" in str(check)


MU, TO = jnp.array([0.3, 0.6, 0.2]), jnp.array([0.1, 0.2, 0.3])


@pytest.mark.parametrize("inverse", [Dense(), CG()], ids=["Dense", "CG"])
def test_on_a_simplex_in_float32(inverse):
    """A right one passes: theta* = (1 + mu e^psi - mean) / 3, all positive."""
    simplex = ProjectedGradient(lambda w, p: optax.projections.projection_simplex(w), 0.4)
    compute = check_hypergradient(
        lambda w, p: jnp.sum((w - TO) ** 2),
        lambda w, p: 0.5 * jnp.sum((w - jnp.exp(p) * MU) ** 2),
        solver=simplex,
        inverse_hvp=inverse,
    )
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax's
        check = compute(jnp.asarray(0.1), jnp.ones(3) / 3)
    slope = np.exp(0.1) * np.asarray(MU - jnp.mean(MU))
    theta = 1 / 3 + slope
    right = 2 * (theta - np.asarray(TO)) @ slope
    np.testing.assert_allclose(check.hypergradient.grad, right, rtol=1e-2)
    assert check.passed and not check.causes


def test_a_theta_that_is_away_does_not_pass_though_all_agrees(x64):
    """A solver that is stuck, stuck again at each difference: its zero is found out."""

    def stuck(loss, theta0):
        return theta0

    check = check_hypergradient(
        lambda t, p: jnp.sum(t), lambda t, p: jnp.sum((t - p) ** 2), solver=stuck
    )(jnp.ones(2), jnp.zeros(2))
    assert not check.passed and check.distance > 0.5
    assert check.causes == (Cause.not_stationary,)
    np.testing.assert_allclose(check.hypergradient.grad, 1)  # right by luck, as all is quadratic
    assert "distance to the solution" in str(check)


def test_a_tiny_unit_of_the_inner_loss_hides_nothing():
    unit = jnp.float32(1e-6)
    few = GradientDescent(optax.sgd(0.1), 30)
    outer = lambda t, p: jnp.sum(t**2)  # noqa: E731
    inner = lambda t, p: unit * jnp.sum((t - p) ** 2)  # noqa: E731
    assert not check_hypergradient(outer, inner, solver=few)(jnp.ones(2), jnp.zeros(2)).passed
    assert check_hypergradient(outer, inner, solver=LBFGS())(jnp.ones(2), jnp.zeros(2)).passed


def test_one_direction_for_one_number(x64):
    for psi, rows in ((jnp.asarray(1.0), 1), (jnp.ones(1), 1), (jnp.ones(2), 2), (jnp.ones(9), 4)):
        check = check_hypergradient(
            lambda t, p: jnp.sum(t**2), lambda t, p: jnp.sum((t - p) ** 2), solver=Newton()
        )(psi, jnp.zeros_like(psi))
        assert len(check.derivatives) == rows and check.passed
        assert str(check).count("random") == rows - 1


def test_differences_that_are_too_noisy_cannot_judge():
    """The outer loss jumps by more than it moves: neither agreement nor disagreement is claimed."""

    def outer(theta, psi):
        jumps = jax.lax.stop_gradient(jnp.sin(1e6 * jnp.sum(theta)))
        return jnp.sum(theta) + 3 * jumps

    check = check_hypergradient(outer, lambda t, p: jnp.sum((t - p) ** 2), solver=Newton())(
        jnp.ones(2), jnp.zeros(2)
    )
    assert not check.passed and not check.judged and check.causes == (Cause.noise,)
    assert "cannot be judged by finite differences" in str(check)


def test_what_is_wrong_is_judged(x64):
    check = check_hypergradient(
        lambda t, p: jnp.sum(t**2), lambda t, p: jnp.sum((t - p) ** 2), solver=Newton(),
        inverse_hvp=Dense(damping=1.0),
    )(jnp.ones(2), jnp.zeros(2))  # fmt: skip
    assert check.judged and not check.passed and check.causes == (Cause.damping,)
    assert "DISAGREES with" in str(check)
