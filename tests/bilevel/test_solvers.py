"""Inner solvers: where they end, what they record, and how they fail."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel import Result, hypergradient
from bilevel.inverse_hvp import CG, Dense
from bilevel.solvers import (
    LBFGS,
    AbstractSolver,
    GradientDescent,
    Jaxopt,
    Newton,
    Optimistix,
    Steps,
)

MATRIX = np.diag([1.0, 2.0, 3.0])


def quadratic(theta):
    return 0.5 * theta @ jnp.asarray(MATRIX, theta.dtype) @ theta - jnp.sum(theta)


def quartic(theta):
    return jnp.sum(theta**4 / 4 + theta**2 / 2 - theta)


def test_newton_is_exact_for_a_quadratic_in_one_step(x64):
    for inverse_hvp in (CG(), Dense()):
        theta, record = Newton(inverse_hvp)(quadratic, jnp.full(3, 5.0))
        np.testing.assert_allclose(theta, [1, 1 / 2, 1 / 3], rtol=1e-9)
        assert record.gradient_norm < 1e-8 and record.steps == 1
        np.testing.assert_allclose(record.losses, [quadratic(jnp.full(3, 5.0)), -11 / 12])


def test_newton_converges_quadratically(x64):
    norms = [
        float(Newton(Dense(), steps)(quartic, jnp.zeros(2))[1].gradient_norm) for steps in (3, 4, 5)
    ]
    assert norms[0] < 0.1 and norms[1] < norms[0] ** 1.7 and norms[2] < norms[1] ** 1.7


def test_descent_is_the_optimiser_written_out(x64):
    optimiser = optax.sgd(0.1, momentum=0.9)
    theta, state, losses = jnp.zeros(3), optimiser.init(jnp.zeros(3)), []
    for _ in range(5):
        loss, gradient = jax.value_and_grad(quadratic)(theta)
        losses.append(loss)
        updates, state = optimiser.update(gradient, state)
        theta = theta + updates
    losses.append(quadratic(theta))
    found, record = GradientDescent(optax.sgd(1.0, 0.9), 5, scale=0.1)(quadratic, jnp.zeros(3))
    np.testing.assert_allclose(found, theta, rtol=1e-12)
    np.testing.assert_allclose(record.losses, losses, rtol=1e-12)
    assert record.steps == 5 and record.result == Result.not_judged


def test_a_new_scale_compiles_nothing(compilations):
    optimiser = optax.adam(1.0)

    def run(scale):
        return GradientDescent(optimiser, 3, scale=scale)(quadratic, jnp.zeros(3))[0]

    first, compiled = run(0.1), compilations()
    second = run(0.2)
    assert compilations() == compiled
    assert not jnp.allclose(first, second)


def test_no_steps_at_all():
    theta, record = GradientDescent(optax.sgd(0.1), 0)(quadratic, jnp.ones(3))
    np.testing.assert_array_equal(theta, jnp.ones(3))
    assert record.losses.shape == (1,)


def test_the_gradient_norm_does_not_underflow():
    """A gradient of 1e-25 in float32 squares to 0, and is not 0."""
    _, record = GradientDescent(optax.sgd(0.0), 1)(lambda t: 1e-25 * jnp.sum(t), jnp.ones(4))
    np.testing.assert_allclose(record.gradient_norm, 2e-25, rtol=1e-5)


def test_fresh_keys(getkey):
    seen = []

    def loss(theta, *, key):
        jax.debug.callback(lambda data: seen.append(tuple(data.tolist())), jax.random.key_data(key))
        return jnp.sum(theta**2)

    GradientDescent(optax.sgd(0.1), 5)(loss, jnp.ones(2), getkey())
    jax.effects_barrier()
    assert len(seen) == len(set(seen)) == 6  # five steps and the record


@pytest.mark.parametrize(
    "solver, loss, result",
    [
        (GradientDescent(optax.sgd(1e30), 4), quadratic, Result.nonfinite),
        (Newton(CG(max_steps=1)), quadratic, Result.not_stationary),
        (Newton(CG(rtol=1e-3), 2, tol=1e-12), quartic, Result.not_stationary),
        (Newton(), lambda theta: jnp.sum(jnp.sqrt(1 + 4 * theta**2)), Result.not_stationary),
        (GradientDescent(optax.sgd(0.1), 5, tol=1e-6), quadratic, Result.not_stationary),
        (LBFGS(max_steps=2), quartic, Result.not_stationary),
        (Newton(), lambda theta: -jnp.sum(theta**2), Result.indefinite),
        (Newton(Dense()), lambda theta: jnp.sum(theta**3), Result.singular),  # at theta = 0
        (Newton(), lambda theta: jnp.sum(jnp.sqrt(theta)), Result.nonfinite),
    ],
)
def test_failures_are_recorded(solver, loss, result):
    start = jnp.zeros(3) if result in (Result.singular, Result.nonfinite) else jnp.ones(3)
    if result == Result.singular:
        start, loss = jnp.ones(3), lambda theta: theta[0] ** 2 + theta[1]
    _, record = solver(loss, start)
    assert record.result == result


def test_descent_stops_at_its_tolerance(x64):
    for loop in ("loop", "unroll", "dispatch"):
        descent = GradientDescent(optax.sgd(0.3), 60, tol=1e-3, loop=loop)
        theta, record = descent(quadratic, jnp.zeros(3))
        assert record.gradient_norm <= 1e-3 and record.steps < 60
        assert record.result == Result.successful
        few = GradientDescent(optax.sgd(0.3), int(record.steps) - 2)(quadratic, jnp.zeros(3))[1]
        assert few.gradient_norm > 1e-3  # it did stop at the first that is small enough


def test_an_inexact_newton_step_is_mended_by_the_next(x64):
    solver = Newton(CG(max_steps=2), steps=12, tol=1e-9)
    theta, record = solver(quadratic, jnp.full(3, 5.0))
    np.testing.assert_allclose(theta, [1, 1 / 2, 1 / 3], rtol=1e-9)
    assert record.result == Result.successful
    again = Newton()(quadratic, theta)[1]  # from the solution, where no gradient can shrink
    assert again.result == Result.successful


SMOOTH = {
    "optax": LBFGS(tol=1e-9),
    "jaxopt": lambda: Jaxopt(import_jaxopt().LBFGS(fun=None, tol=1e-9), tol=1e-8),
    "optimistix": lambda: Optimistix(
        pytest.importorskip("optimistix").BFGS(rtol=1e-10, atol=1e-10), tol=1e-8
    ),
}


def import_jaxopt():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it says that it is not maintained
        return pytest.importorskip("jaxopt")


@pytest.mark.parametrize("name", SMOOTH)
def test_solvers_of_other_libraries(name, x64, close):
    solver = SMOOTH[name] if name == "optax" else SMOOTH[name]()
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(20, 3))), jnp.asarray(np.sign(rng.normal(size=20)))

    def loss(theta, psi):
        logits = x @ theta["w"] + theta["b"]
        return jnp.mean(jax.nn.softplus(-y * logits)) + jnp.exp(psi) * jnp.sum(theta["w"] ** 2)

    def outer(theta, psi):
        return jnp.sum(theta["w"] ** 2) + theta["b"] ** 2

    start = {"w": jnp.zeros(3), "b": jnp.zeros(())}
    psi = jnp.asarray(-2.0)
    found = hypergradient(outer, loss, solver=solver)(psi, start)
    exact = hypergradient(outer, loss, solver=Newton(steps=12))(psi, start)
    close(found.theta, exact.theta, 1e-7)
    close(found.grad, exact.grad, 1e-6)
    assert found.inner.steps > 1 and found.inner.result == Result.successful
    short = eqx.tree_at(lambda s: s.tol, solver, 1e-30)  # nothing reaches that
    short = hypergradient(outer, loss, solver=short, throw="ignore")(psi, start)
    assert short.inner.result == Result.not_stationary


@pytest.mark.parametrize("name", SMOOTH)
def test_they_want_a_loss_that_does_not_change(name, getkey):
    solver = SMOOTH[name] if name == "optax" else SMOOTH[name]()
    with pytest.raises(ValueError, match="key was given, but .* needs an inner loss that does not"):
        solver(lambda theta, *, key: jnp.sum(theta**2), jnp.ones(2), getkey())


class Solution(AbstractSolver):
    """A user's own, in a few lines."""

    def solve(self, loss, theta0, key):
        theta = jnp.array([1, 1 / 2, 1 / 3], theta0.dtype)
        return Steps(theta, jnp.asarray(0), jnp.zeros(0), Result.successful)


def test_a_solver_of_ones_own():
    theta, record = Solution()(quadratic, jnp.zeros(3))
    assert record.gradient_norm < 1e-6
    with pytest.raises(ValueError, match="the solver returned a theta of structure"):
        Solution()(lambda theta: jnp.sum(theta**2), jnp.zeros(4))


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: Newton(steps=0), "steps=0 leaves no step"),
        (lambda: GradientDescent(optax.sgd(1.0), -1), "steps=-1 is negative"),
        (lambda: GradientDescent(optax.sgd(1.0), 1, loop="for"), "loop='for' is not known"),
        (lambda: GradientDescent(optax.sgd(1.0), 1, tol=-1.0), "tol=-1.0 is negative"),
        (lambda: LBFGS(max_steps=0), "max_steps=0 leaves no step"),
        (lambda: Optimistix(None, max_steps=0), "max_steps=0 leaves no step"),
        (lambda: Jaxopt(optax.sgd), "is no solver of jaxopt: pass one"),
    ],
)
def test_bad_settings(make, match, unchecked):
    with pytest.raises(ValueError, match=match):
        make()
