"""The check finds a wrong hypergradient, and what made it wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel import Cause, check_hypergradient
from bilevel.inverse_hvp import CG, SGD, Dense, Identity
from bilevel.solvers import GradientDescent, Newton, ProximalGradient

NEWTON = Newton(steps=8)
CASES = {
    "few inner steps": (GradientDescent(optax.sgd(0.3), 6), CG(), {Cause.not_stationary}),
    "damped": (NEWTON, CG(damping=0.3), {Cause.damping}),
    "few adjoint steps": (NEWTON, CG(max_steps=1), {Cause.adjoint}),
    "rough adjoint": (NEWTON, Identity(scale=1.0), {Cause.adjoint}),
    "damped and unsolved": (NEWTON, CG(damping=0.3, max_steps=1), {Cause.damping, Cause.adjoint}),
    "both unsolved": (
        GradientDescent(optax.sgd(0.3), 6),
        SGD(optax.sgd(0.1), 3),
        {Cause.not_stationary, Cause.adjoint},
    ),
}


@pytest.mark.parametrize("problem", ["logistic"], indirect=True)
@pytest.mark.parametrize("case", CASES)
def test_what_made_it_wrong(case, problem):
    solver, inverse_hvp, causes = CASES[case]
    check = check_hypergradient(
        problem.outer, problem.inner, solver=solver, inverse_hvp=inverse_hvp, directions=1
    )(problem.psi, problem.theta0)
    assert not check.passed and set(check.causes) == causes
    assert f"Likely cause: {check.causes[0].value}" in str(check) and "DISAGREES" in str(check)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_a_right_one_passes(dtype, problem):
    psi, theta0 = (
        jax.tree.map(lambda leaf: leaf.astype(dtype), tree)
        for tree in (problem.psi, problem.theta0)
    )
    with jax.numpy_dtype_promotion("standard"):
        check = check_hypergradient(
            problem.outer, problem.inner, solver=NEWTON, inverse_hvp=Dense()
        )(psi, theta0)
    assert check.passed and not check.causes and check.error < check.rtol
    assert check.unrolled_error is None and check.smallest_eigenvalue > 0
    assert check.distance < 1e-3 and len(check.derivatives) == min(4, optax.tree.size(psi))
    assert "agrees with" in str(check) and "cause" not in str(check)


def test_unrolling_is_compared_with(ridge_problem):
    check = check_hypergradient(
        ridge_problem.outer, ridge_problem.inner, solver=GradientDescent(optax.sgd(0.3), 400)
    )(ridge_problem.psi, ridge_problem.theta0)
    assert check.passed and check.unrolled_error < 1e-8
    assert "distance to unrolling" in str(check)


def saddle(theta, psi):
    matrix = jnp.diag(jnp.array([1.0, -1.0]))
    return 0.5 * theta @ matrix @ theta - theta @ psi


def test_an_indefinite_hessian(x64):
    """Descent that is stopped on its way down from a saddle."""
    check = check_hypergradient(
        lambda t, p: jnp.sum(t**2), saddle, solver=GradientDescent(optax.sgd(0.3), 5)
    )(jnp.array([0.5, 0.2]), jnp.zeros(2))
    assert not check.passed and Cause.indefinite in check.causes
    assert check.smallest_eigenvalue == pytest.approx(-1)


def test_nan(x64):
    check = check_hypergradient(
        lambda t, p: jnp.sum(jnp.sqrt(t)), lambda t, p: jnp.sum((t + p**2) ** 2), solver=NEWTON
    )(jnp.ones(2), jnp.zeros(2))
    assert not check.passed and check.causes == (Cause.nonfinite,)


def test_what_no_part_can_explain(x64):
    """psi reaches the outer loss by a way that no derivative takes."""

    def outer(theta, psi):
        return jnp.sum(theta**2) + jnp.sum(jax.lax.stop_gradient(psi) ** 2)

    check = check_hypergradient(outer, lambda t, p: jnp.sum((t - p) ** 2), solver=NEWTON)(
        jnp.ones(2), jnp.zeros(2)
    )
    assert check.causes == (Cause.unexplained,)


def test_noise(x64):
    """An outer loss that jumps about, by more than finite differences can see through."""

    def outer(theta, psi):
        return jnp.sum(theta) + 0.1 * jax.lax.stop_gradient(jnp.sin(1e9 * jnp.sum(theta)))

    check = check_hypergradient(outer, lambda t, p: jnp.sum((t - p) ** 2), solver=NEWTON)(
        jnp.ones(2), jnp.zeros(2)
    )
    assert not check.passed and check.causes == (Cause.noise,)


def test_a_silent_zero_is_found(x64):
    """The failure of the field: a solver's start for an answer."""
    check = check_hypergradient(
        lambda t, p: jnp.sum(t), lambda t, p: jnp.sum((t - p) ** 2), solver=NEWTON,
        inverse_hvp=Identity(scale=0.0),
    )(jnp.ones(2), jnp.zeros(2))  # fmt: skip
    np.testing.assert_array_equal(check.hypergradient.grad, 0)
    assert not check.passed and check.causes == (Cause.adjoint,)


def test_a_fixed_point(x64):
    check = check_hypergradient(
        lambda t, p: jnp.sum((t - 1) ** 2),
        lambda t, p: 0.5 * jnp.sum((t - jnp.array([3.0, 0.1])) ** 2),
        solver=ProximalGradient(
            lambda t, p, s: jnp.sign(t) * jnp.maximum(jnp.abs(t) - s * p, 0), 0.5
        ),
    )(jnp.asarray(0.5), jnp.zeros(2))
    assert check.passed and check.smallest_eigenvalue is None


def test_aux_arguments_and_keys(x64, getkey):
    def inner(theta, psi, shift, *, key):
        return 0.5 * jnp.sum((theta - psi - shift - 0.1 * jax.random.normal(key, (2,))) ** 2)

    check = check_hypergradient(
        lambda t, p, scale: (scale * jnp.sum(t**2), None),
        inner,
        solver=GradientDescent(optax.sgd(1.0), 1),
        inverse_hvp=SGD(optax.sgd(1.0), 1),
        has_aux=True,
        directions=1,
    )
    args = {"outer_args": (jnp.asarray(2.0),), "inner_args": (jnp.asarray(1.0),)}
    assert check(jnp.ones(2), jnp.zeros(2), key=getkey(), **args).passed


def test_bad_calls(unchecked):
    with pytest.raises(ValueError, match="directions=0 leaves nothing"):
        check_hypergradient(saddle, saddle, solver=NEWTON, directions=0)
    with pytest.raises(ValueError, match="outside of jax.jit"):
        check = check_hypergradient(saddle, saddle, solver=NEWTON)
        jax.jit(lambda psi: check(psi, psi).error)(jnp.ones(2))
