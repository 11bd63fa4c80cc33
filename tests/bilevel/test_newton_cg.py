"""Truncated Newton: losses of several kinds, in any unit, to any accuracy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel import Result, hypergradient
from bilevel.inverse_hvp import Dense
from bilevel.solvers import Newton, NewtonCG


def logistic(theta):
    x = jax.random.normal(jax.random.key(0), (50, 8), theta.dtype)
    y = jnp.sign(x.sum(1) + jax.random.normal(jax.random.key(1), (50,), theta.dtype))
    return jnp.mean(jnp.logaddexp(0, -y * (x @ theta))) + 1e-3 * jnp.sum(theta**2)


def rosenbrock(theta):
    return jnp.sum(100 * (theta[1:] - theta[:-1] ** 2) ** 2 + (1 - theta[:-1]) ** 2)


def wells(theta):
    """Curved downwards at the start."""
    return jnp.sum((theta**2 - 1) ** 2)


LOSSES = {
    "logistic": (logistic, jnp.zeros(8)),
    "rosenbrock": (rosenbrock, jnp.zeros(6)),
    "wells": (wells, jnp.full(3, 0.01)),
    "far away": (lambda t: jnp.sum(jnp.cosh(t - 30)), jnp.zeros(2)),
}


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("name", LOSSES)
def test_it_ends_at_a_minimum(x64, name, unit):
    loss, theta0 = LOSSES[name]
    theta, record = NewtonCG()(lambda t: unit * loss(t), theta0.astype(jnp.float64))
    assert record.result == Result.successful
    assert np.all(np.linalg.eigvalsh(jax.hessian(loss)(theta)) > 0)
    step = jnp.linalg.solve(jax.hessian(loss)(theta), jax.grad(loss)(theta))
    assert float(jnp.linalg.norm(step)) < 1e-8 * float(jnp.linalg.norm(theta))


def test_it_stops_at_the_accuracy_asked_for(x64):
    exact, _ = NewtonCG()(logistic, jnp.zeros(8, jnp.float64))
    steps = []
    for rtol in (1e-1, 1e-3, 1e-6):
        theta, record = NewtonCG(rtol=rtol)(logistic, jnp.zeros(8, jnp.float64))
        assert float(jnp.linalg.norm(theta - exact) / jnp.linalg.norm(exact)) < 3 * rtol
        steps.append(int(record.steps))
    assert steps[0] < steps[1] < steps[2]


def test_from_the_solution_it_takes_one_look():
    exact, _ = NewtonCG()(logistic, jnp.zeros(8))
    theta, record = NewtonCG(rtol=1e-4)(logistic, exact)
    assert int(record.steps) == 1
    np.testing.assert_allclose(theta, exact, rtol=1e-5)


def test_a_gradient_norm_may_be_asked_for_instead(x64):
    _, record = NewtonCG(tol=1e-6)(logistic, jnp.zeros(8, jnp.float64))
    assert float(record.gradient_norm) <= 1e-6 and record.result == Result.successful
    _, short = NewtonCG(tol=1e-12, max_steps=2)(logistic, jnp.zeros(8, jnp.float64))
    assert short.result == Result.not_stationary


def test_steps_that_run_out_are_no_success(x64):
    _, record = NewtonCG(max_steps=3)(rosenbrock, jnp.zeros(6, jnp.float64))
    assert record.result == Result.not_stationary


def test_the_three_ways_of_running_agree(x64):
    theta0 = jnp.zeros(8, jnp.float64)
    looped, *others = (
        NewtonCG(max_steps=3, cg_max_steps=3, loop=loop)(logistic, theta0)[0]
        for loop in ("loop", "unroll", "dispatch")
    )
    for other in others:
        np.testing.assert_allclose(other, looped, rtol=1e-12)


def test_a_hypergradient_through_it_is_that_of_a_dense_solve(x64):
    def inner(theta, psi):
        return logistic(theta) + jnp.exp(psi) * jnp.sum(theta**2)

    def outer(theta, psi):
        return jnp.sum(theta**2)

    args = (jnp.asarray(-1.0, jnp.float64), jnp.zeros(8, jnp.float64))
    found = hypergradient(outer, inner, solver=NewtonCG())(*args)
    exact = hypergradient(outer, inner, solver=Newton(Dense(), steps=20), inverse_hvp=Dense())
    assert found.inner.result == Result.successful
    np.testing.assert_allclose(found.grad, exact(*args).grad, rtol=1e-8)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"max_steps": 0}, "max_steps=0"),
        ({"cg_max_steps": 0}, "cg_max_steps=0"),
        ({"rtol": -1.0}, "rtol=-1.0"),
        ({"forcing": 1.0}, "forcing=1.0"),
        ({"tol": -1.0}, "tol=-1.0"),
    ],
)
def test_mistakes(given, words):
    with pytest.raises(ValueError, match=words):
        NewtonCG(**given)
