"""Where an inner problem has no minimum, or is far from it, no solver says that it found one."""

import jax.numpy as jnp
import numpy as np
import pytest

from bilevel import Result, argmin, check_hypergradient, hypergradient
from bilevel.inverse_hvp import Dense
from bilevel.problems import Constrained
from bilevel.solvers import LBFGS, InteriorPoint, Newton, NewtonCG, ProximalGradient

SLOPE = jnp.array([1.5, 2.0])
SOLVERS = {
    "NewtonCG": NewtonCG(),
    "LBFGS": LBFGS(),
    "ProximalGradient": ProximalGradient(lambda theta, psi, step: theta, 0.1),
}
WITHOUT_A_MINIMUM = {
    "linear": lambda theta, psi: theta @ psi,
    "curved in one direction": lambda theta, psi: theta[0] ** 2 / 2 + theta[1] * psi[1],
    "a peak": lambda theta, psi: -jnp.sum((theta - psi) ** 2),
    "ever steeper": lambda theta, psi: jnp.sum(psi * (theta - 1) ** 3),
    "slower and slower": lambda theta, psi: theta @ psi - jnp.sum(jnp.sqrt(1 + theta**2)),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("inner", WITHOUT_A_MINIMUM.values(), ids=WITHOUT_A_MINIMUM)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_without_a_minimum(x64, solver, inner, dtype):
    psi, start = SLOPE.astype(dtype), jnp.full(2, 0.1, dtype)
    find = argmin(inner, solver=solver, with_record=True, throw="ignore")
    _, record = find(psi, start)
    assert record.result != Result.successful
    h = hypergradient(lambda t, p: jnp.sum(jnp.sin(t)), inner, solver=solver, throw="ignore")
    assert h(psi, start).inner.result != Result.successful


def test_a_linear_program_without_a_minimum(x64):
    program = Constrained(lambda theta, psi: theta @ psi, inequality=lambda theta, psi: theta - 1)
    with pytest.raises(RuntimeError, match="ended away from a minimum"):
        argmin(program, solver=InteriorPoint())(jnp.ones(2), jnp.zeros(2))
    bounded = argmin(program, solver=InteriorPoint())(-jnp.ones(2), jnp.zeros(2))
    np.testing.assert_allclose(bounded, 1, atol=1e-8)


@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_steps_that_have_become_short_are_no_minimum(x64, condition, dtype):
    """Gradient steps along what is flat are short however far the minimum is."""
    curvatures = jnp.asarray(np.logspace(-np.log10(condition), 0, 20), dtype)
    target = jnp.asarray(np.random.default_rng(0).normal(size=20), dtype)

    def inner(theta, psi):
        return jnp.sum(curvatures * (theta - psi * target) ** 2) / 2

    solver = ProximalGradient(lambda theta, psi, step: theta, 0.9)
    find = argmin(inner, solver=solver, with_record=True, throw="ignore")
    theta, record = find(jnp.ones((), dtype), jnp.zeros(20, dtype))
    error = float(jnp.linalg.norm(theta - target) / jnp.linalg.norm(target))
    assert error < 1e-3 if bool(record.result == Result.successful) else condition > 1e2
    assert error < 30 * float(record.distance) + 1e-6


@pytest.mark.parametrize("unit", [1e-12, 1e-3, 1.0, 1e12])
def test_a_check_in_any_units_of_psi(x64, unit):
    def inner(theta, psi):
        return jnp.sum(jnp.cosh(theta - psi / unit)) + jnp.sum(theta**2)

    def outer(theta, psi):
        return jnp.sum(jnp.sin(theta))

    psi, start, solver = jnp.array([0.3, -0.5]) * unit, jnp.zeros(2), Newton(Dense(), steps=15)
    assert check_hypergradient(outer, inner, solver=solver)(psi, start).passed
    damped = check_hypergradient(outer, inner, solver=solver, inverse_hvp=Dense(damping=0.5))
    found = damped(psi, start)
    assert found.judged and not found.passed


def test_differences_that_are_not_finite_judge_nothing(x64):
    def inner(theta, psi):
        return jnp.sum((theta - jnp.where(psi == 1, psi, jnp.inf)) ** 2)

    check = check_hypergradient(lambda t, p: jnp.sum(t**2), inner, solver=Newton(Dense()), step=0.1)
    found = check(jnp.ones(2), jnp.zeros(2))
    assert not found.judged and not found.passed
    with pytest.raises(ValueError, match=r"step=0.0 is no length"):
        check_hypergradient(lambda t, p: jnp.sum(t), inner, solver=Newton(), step=0.0)
