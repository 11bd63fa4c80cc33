"""What users of other libraries ran into: each has a test here, named after it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from bilevel import Result, argmin, check_hypergradient, hypergradient, implicit_grad
from bilevel.inverse_hvp import CG, SGD, Dense, Neumann, Nystrom
from bilevel.solvers import GradientDescent, Newton


def stay(loss, theta0):
    return theta0


def test_the_adjoint_solve_failed_and_the_gradient_was_silently_zero():
    def inner(theta, psi):  # a saddle, where conjugate gradients cannot take a step
        return 0.5 * (theta[0] ** 2 - 2 * theta[1] ** 2) - theta @ psi

    for throw in ("raise", "ignore"):
        compute = hypergradient(
            lambda t, p: t[1], inner, solver=stay, inverse_hvp=CG(), throw=throw
        )
        if throw == "raise":
            with pytest.raises(RuntimeError, match="non-positive curvature"):
                compute(jnp.ones(2), jnp.zeros(2))
        else:
            assert compute(jnp.ones(2), jnp.zeros(2)).adjoint.result == Result.indefinite
    # The same for descent that gets nowhere: a rate far too small, and one far too large.
    for rate in (1e-9, 1e3):
        with pytest.raises(RuntimeError, match="no nearer to|NaN or infinity"):
            implicit_grad(
                lambda t, p: jnp.sum(t),
                lambda t, p: jnp.sum((t - p) ** 2),
                solver=Newton(),
                inverse_hvp=SGD(optax.sgd(rate), 20),
            )(jnp.ones(2), jnp.zeros(2))


def test_nothing_told_whether_a_hypergradient_can_be_trusted(ridge_problem):
    """Each carries its record, and a check says what is wrong with it."""
    psi, theta0 = ridge_problem.psi, ridge_problem.theta0
    outer, inner = ridge_problem.outer, ridge_problem.inner
    settings = {"solver": GradientDescent(optax.sgd(0.1), 10), "inverse_hvp": CG(damping=0.1)}
    rough = hypergradient(outer, inner, **settings)(psi, theta0)
    exact = hypergradient(outer, inner, solver=Newton())(psi, theta0)
    assert rough.inner.gradient_norm > 1e-3 > 1e-9 > exact.inner.gradient_norm
    assert exact.adjoint.residual < 1e-9 and exact.adjoint.result == Result.successful
    assert not check_hypergradient(outer, inner, **settings)(psi, theta0).passed
    assert check_hypergradient(outer, inner, solver=Newton())(psi, theta0).passed


class Model(eqx.Module):
    weight: jax.Array
    activation: object = jnp.tanh
    name: str = eqx.field(static=True, default="model")


def test_closed_over_arrays_and_modules_with_static_leaves_broke_the_derivative_rule(x64):
    model = Model(jnp.array([0.5, -0.5]))

    def value(shift):  # `inner` closes over a traced array, theta and psi are modules
        def inner(theta, psi):
            return jnp.sum((theta.weight - psi.weight * shift) ** 2)

        fit = argmin(inner, solver=Newton())
        return jnp.sum(fit(model, Model(jnp.zeros(2))).weight ** 2)

    for compute in (jax.grad(value), jax.jit(jax.grad(value))):
        np.testing.assert_allclose(compute(jnp.asarray(3.0)), 2 * 3 * 0.5, rtol=1e-9)


def test_a_stochastic_hessian_vector_product_could_not_be_had(x64, getkey):
    """Mini-batches in the solver, in each product and in the mixed derivative; no training loop."""
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(64, 3))), jnp.asarray(rng.normal(size=64))

    def inner(theta, psi, *, key=None):
        rows = jnp.arange(64) if key is None else jax.random.choice(key, 64, (32,))
        return 0.5 * jnp.mean((x[rows] @ theta - y[rows]) ** 2) + 0.5 * psi * jnp.sum(theta**2)

    def outer(theta, psi):
        return 0.5 * jnp.sum(theta**2)

    psi, theta0 = jnp.asarray(0.5), jnp.zeros(3)
    compute = implicit_grad(
        outer,
        inner,
        solver=GradientDescent(optax.sgd(0.1), 100),
        inverse_hvp=SGD(optax.sgd(0.1), 100),
    )
    found = jax.vmap(jax.jit(lambda key: compute(psi, theta0, key=key)))(
        jax.random.split(getkey(), 100)
    )
    exact = implicit_grad(outer, inner, solver=Newton())(psi, theta0)
    assert np.std(found) > 0
    np.testing.assert_allclose(np.mean(found), exact, rtol=0.1)


def test_preconditioner_damping_and_warm_start_could_not_be_reached(ridge_problem, close):
    outer, inner = ridge_problem.outer, ridge_problem.inner
    inverse = CG(preconditioner=Nystrom(rank=3), damping=0.2)
    compute = hypergradient(outer, inner, solver=Newton(), inverse_hvp=inverse)
    h = compute(ridge_problem.psi, ridge_problem.theta0)
    damped = hypergradient(outer, inner, solver=Newton(), inverse_hvp=Dense(damping=0.2))
    close(h.grad, damped(ridge_problem.psi, ridge_problem.theta0).grad, 1e-8)
    assert h.adjoint.steps < 3
    warm = compute(ridge_problem.psi, ridge_problem.theta0, v0=h.adjoint.v)
    assert warm.adjoint.steps == 0


@pytest.mark.parametrize("inverse", [CG(), Neumann(steps=5), Nystrom(rank=3)], ids=type)
def test_the_operator_was_materialised_without_being_asked(inverse):
    """A hundred thousand parameters: their Hessian would be 40 GB."""
    size = 100_000

    def gradient(psi):
        compute = implicit_grad(
            lambda t, p: jnp.sum(t),
            lambda t, p: jnp.sum(jnp.cosh(t - p)),
            solver=stay,
            inverse_hvp=inverse,
        )
        return compute(psi, psi)

    compiled = jax.jit(gradient).lower(jnp.zeros(size)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 100 * 4 * size


@pytest.mark.parametrize("size", [1e-13, 1e-30])
def test_right_hand_sides_as_small_as_1e_13_gave_nan(size):
    h = hypergradient(
        lambda t, p: jnp.float32(size) * jnp.sum(t),
        lambda t, p: jnp.sum((t - p) ** 2),
        solver=Newton(),
    )(jnp.ones(3), jnp.zeros(3))
    np.testing.assert_allclose(h.grad, jnp.full(3, size, jnp.float32), rtol=1e-4)
    assert h.adjoint.result == Result.successful


def test_conjugate_gradients_were_wrong(x64):
    """Against the dense solve, step by step: after k steps the best point of the Krylov space."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(8, 8))
    hessian, g = root @ root.T + np.eye(8), rng.normal(size=8)
    for steps in range(1, 9):
        krylov = np.stack([np.linalg.matrix_power(hessian, k) @ g for k in range(steps)], axis=1)
        basis = np.linalg.qr(krylov)[0]
        best = basis @ np.linalg.solve(basis.T @ hessian @ basis, basis.T @ g)
        adjoint = CG(max_steps=steps)(lambda v: jnp.asarray(hessian) @ v, jnp.asarray(g))
        np.testing.assert_allclose(ravel_pytree(adjoint.v)[0], best, rtol=1e-5)
    np.testing.assert_allclose(adjoint.v, np.linalg.solve(hessian, g), rtol=1e-8)
