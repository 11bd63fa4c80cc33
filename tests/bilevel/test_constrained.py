"""Minima under constraints: theta, multipliers and derivatives equal those of the active set."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from bilevel import Result, argmin, check_hypergradient, hypergradient
from bilevel.inverse_hvp import CG, Dense
from bilevel.problems import Constrained
from bilevel.solvers import InteriorPoint, Newton, Optimistix

CURVATURE = np.diag([1.0, 2.0, 3.0, 4.0]) + 0.3
PSI = np.array([0.4, -0.3, 0.2])
# The first and the last inequality bind there, and the multipliers of both are above 0.3.
BOUNDED = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, -1]])


def loss(theta, psi):
    push = jnp.concatenate([3 + psi[:2], psi[2:], jnp.array([-2.0])])
    return 0.5 * theta @ jnp.asarray(CURVATURE) @ theta - push @ theta


def equality(theta, psi):
    return {"sum": jnp.sum(theta) - 1 - psi[0] ** 2}


def inequality(theta, psi):
    bounds = jnp.stack([0.5 + psi[1], jnp.asarray(4.0), psi[2]])
    return jnp.asarray(BOUNDED) @ theta - bounds


QP = Constrained(loss, equality, inequality)


def exact(psi):
    """theta and the multipliers by the linear system of the active set."""
    zero, active = jnp.zeros(4), jnp.array([0, 2])
    constraints = [lambda t: equality(t, psi)["sum"][None], lambda t: inequality(t, psi)]
    rows = [jax.jacfwd(c)(zero) for c in constraints]
    rows[1] = rows[1][active]
    jacobian = jnp.concatenate(rows)
    right = jnp.concatenate(
        [
            -jax.grad(loss)(zero, psi),
            -constraints[0](zero),
            -constraints[1](zero)[active],
        ]
    )
    matrix = jnp.block([[jnp.asarray(CURVATURE), jacobian.T], [jacobian, jnp.zeros((3, 3))]])
    found = jnp.linalg.solve(matrix, right)
    return found[:4], found[4], jnp.zeros(3).at[active].set(found[5:])


def test_theta_and_multipliers(x64):
    psi = jnp.asarray(PSI)
    theta, record = argmin(QP, solver=InteriorPoint(), with_record=True)(psi, jnp.zeros(4))
    expected, multiplier, bounds = exact(psi)
    assert np.all(np.asarray(bounds)[[0, 2]] > 0.3) and np.all(inequality(expected, psi) < 1e-12)
    np.testing.assert_allclose(theta, expected, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(record.multipliers.equality["sum"], multiplier, rtol=1e-8)
    np.testing.assert_allclose(record.multipliers.inequality, bounds, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(record.losses[-1], loss(expected, psi), rtol=1e-9)
    assert record.result == Result.successful and record.steps < 15


def test_derivatives_in_both_modes(x64):
    psis = jnp.asarray(np.stack([PSI, PSI + 0.02]))
    fit = partial(argmin, QP, solver=InteriorPoint())
    start = jnp.zeros(4)
    expected = jax.vmap(jax.jacfwd(lambda psi: exact(psi)[0]))(psis)
    for jacobian, run in ((jax.jacrev, fit()), (jax.jacfwd, fit(forward_mode=True))):
        found = jax.jit(jax.vmap(lambda psi, j=jacobian, r=run: j(r)(psi, start)))(psis)
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)

    def value(of, psi):
        return jnp.sum(of(psi) ** 3)

    run = fit(forward_mode=True)
    second = jax.jit(jax.hessian(partial(value, lambda psi: run(psi, start))))(psis[0])
    expected = jax.hessian(partial(value, lambda psi: exact(psi)[0]))(psis[0])
    np.testing.assert_allclose(second, expected, rtol=1e-6, atol=1e-6)


def outer(theta, psi):
    return jnp.sum(theta**3) + psi @ psi


def test_hypergradient_and_its_check(x64):
    psi, start = jnp.asarray(PSI), jnp.zeros(4)
    expected = jax.grad(lambda psi: outer(exact(psi)[0], psi))(psi)
    for inverse in (None, CG()):
        h = hypergradient(outer, QP, solver=InteriorPoint(), inverse_hvp=inverse)(psi, start)
        np.testing.assert_allclose(h.grad, expected, rtol=1e-8)
        assert h.inner.result == h.adjoint.result == Result.successful
        np.testing.assert_allclose(h.inner.multipliers.inequality, exact(psi)[2], atol=1e-8)
    again = hypergradient(outer, QP, solver=InteriorPoint(), inverse_hvp=CG())
    assert again(psi, start, v0=h.adjoint.v).adjoint.steps <= h.adjoint.steps
    check = check_hypergradient(outer, QP, solver=InteriorPoint())(psi, start)
    assert check.passed and check.error < 1e-7


@pytest.mark.parametrize("of_loss, of_constraints", [(1e-6, 1.0), (1e7, 1e-5), (1.0, 1e6)])
def test_no_unit_matters(of_loss, of_constraints, x64):
    psi, start = jnp.asarray(PSI), jnp.zeros(4)
    scaled = Constrained(
        lambda t, p: of_loss * loss(t, p),
        lambda t, p: of_constraints * equality(t, p)["sum"],
        lambda t, p: of_constraints * inequality(t, p),
    )
    h = hypergradient(outer, scaled, solver=InteriorPoint())(psi, start)
    theta, _, bounds = exact(psi)
    np.testing.assert_allclose(h.theta, theta, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(
        h.inner.multipliers.inequality * of_constraints / of_loss, bounds, rtol=1e-7, atol=1e-8
    )
    np.testing.assert_allclose(h.grad, jax.grad(lambda p: outer(exact(p)[0], p))(psi), rtol=1e-8)
    assert h.inner.result == Result.successful


def test_a_curved_constraint(x64):
    """The nearest point of a ball of radius psi."""
    centre = jnp.array([1.0, 2.0, -2.0])
    ball = Constrained(
        lambda t, p: 0.5 * jnp.sum((t - centre) ** 2), inequality=lambda t, p: t @ t - p**2
    )
    fit = argmin(ball, solver=InteriorPoint(), with_record=True)
    theta, record = fit(jnp.asarray(1.5), jnp.array([0.1, 0.2, 0.3]))
    np.testing.assert_allclose(theta, centre / 2, rtol=1e-8)
    np.testing.assert_allclose(record.multipliers.inequality, 0.5, rtol=1e-8)
    assert record.multipliers.equality is None
    grad = jax.jacrev(lambda p: fit(p, jnp.array([0.1, 0.2, 0.3]))[0])(jnp.asarray(1.5))
    np.testing.assert_allclose(grad, centre / 3, rtol=1e-8)


def test_newton_and_optimistix_solve_it_too(x64):
    psi, start = jnp.asarray(PSI), jnp.zeros(4)
    theta = argmin(QP, solver=Newton(Dense(), steps=12))(psi, start)
    np.testing.assert_allclose(theta, exact(psi)[0], rtol=1e-8, atol=1e-9)
    only = Constrained(loss, equality)
    optx = pytest.importorskip("optimistix")
    one, record = argmin(only, solver=Newton(Dense()), with_record=True)(psi, start)
    other = argmin(only, solver=Optimistix(optx.Newton(1e-10, 1e-10)))(psi, start)
    np.testing.assert_allclose(one, other, rtol=1e-8)
    np.testing.assert_allclose(equality(one, psi)["sum"], 0, atol=1e-12)
    # Along the constraint the gradient is the multiplier in each direction.
    multiplier = record.multipliers.equality["sum"]
    np.testing.assert_allclose(jax.grad(loss)(one, psi), np.full(4, -multiplier), rtol=1e-8)
    assert record.multipliers.inequality is None


def test_a_callable_is_given_the_residual(x64):
    """Of theta and the multipliers, shaped like both; here a step of Newton's method by hand."""
    only, psi = Constrained(loss, equality), jnp.asarray(PSI)

    def solver(F, start):
        flat, unravel = ravel_pytree(start)
        residual = lambda z: ravel_pytree(F(unravel(z)))[0]  # noqa: E731
        return unravel(flat - jnp.linalg.solve(jax.jacfwd(residual)(flat), residual(flat)))

    theta, record = argmin(only, solver=solver, with_record=True)(psi, jnp.zeros(4))
    np.testing.assert_allclose(
        theta, argmin(only, solver=Newton(Dense()))(psi, jnp.zeros(4)), rtol=1e-8
    )
    assert record.result == Result.not_judged and record.gradient_norm < 1e-10


class TestWhereThereIsNoDerivative:
    """theta* = min(psi, 1) has a kink at psi = 1."""

    inner = Constrained(lambda t, p: 0.5 * (t - p) ** 2, inequality=lambda t, p: t - 1)

    def test_the_solution_is_there_and_its_derivative_raises(self, x64):
        fit = argmin(self.inner, solver=InteriorPoint())
        np.testing.assert_allclose(fit(jnp.asarray(1.0), jnp.asarray(-1.0)), 1, atol=1e-6)
        for mode in (False, True):
            fit = argmin(self.inner, solver=InteriorPoint(), forward_mode=mode)
            derivative = jax.jacfwd(fit) if mode else jax.grad(fit)
            with pytest.raises(RuntimeError, match="at its bound with a multiplier of zero"):
                derivative(jnp.asarray(1.0), jnp.asarray(-1.0))

    def test_it_stands_in_the_record(self, x64):
        settings = {"solver": InteriorPoint(), "throw": "ignore"}
        compute = hypergradient(lambda t, p: t, self.inner, **settings)
        result = compute(jnp.asarray(1.0), jnp.asarray(-1.0)).inner.result
        assert result == Result.degenerate
        for psi, slope in ((0.9, 1.0), (1.1, 0.0)):
            h = compute(jnp.asarray(psi), jnp.asarray(-1.0))
            np.testing.assert_allclose(h.grad, slope, atol=1e-8)
            assert h.inner.result == Result.successful


def test_constraints_that_contradict_each_other_fail(x64):
    inner = Constrained(lambda t, p: t @ t, inequality=lambda t, p: jnp.stack([t[0] + p, p - t[0]]))
    fit = argmin(inner, solver=InteriorPoint())
    with pytest.raises(RuntimeError):
        fit(jnp.asarray(1.0), jnp.zeros(2))
