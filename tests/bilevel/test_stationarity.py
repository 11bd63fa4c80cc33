"""The judgement of theta has no units, and what nothing judged is no success."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel import Result, argmin, hypergradient, implicit_grad, implicit_value_and_grad
from bilevel.inverse_hvp import Dense
from bilevel.solvers import LBFGS, AbstractSolver, GradientDescent, Newton, ProximalGradient, Steps

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 3)).astype(np.float32), RNG.normal(size=12).astype(np.float32)
PSI, START = jnp.full(3, -1.0), jnp.zeros(3)


def inner(theta, psi, unit):
    error = jnp.asarray(X) @ theta - jnp.asarray(Y)
    return unit * (jnp.mean(error**2) + jnp.exp(psi) @ theta**2)


def outer(theta, psi):
    return jnp.mean((jnp.asarray(X) @ theta - 1.1 * jnp.asarray(Y)) ** 2)


def right(psi):
    x, y = jnp.asarray(X), jnp.asarray(Y)
    return outer(jnp.linalg.solve(x.T @ x / 12 + jnp.diag(jnp.exp(psi)), x.T @ y / 12), psi)


def stays(loss, theta0):
    return theta0


def exact(loss, theta0):
    return theta0 - jnp.linalg.solve(jax.hessian(loss)(theta0), jax.grad(loss)(theta0))


def solver_in(kind, unit):
    if kind == "proximal gradient":  # the step is a length over a gradient: it has the unit
        return ProximalGradient(lambda t, p, s: t, 0.2 / unit)
    return {"LBFGS": LBFGS(), "Newton": Newton(Dense())}[kind]


@pytest.mark.parametrize("kind", ["LBFGS", "Newton", "proximal gradient"])
def test_the_unit_of_the_inner_loss_changes_nothing(kind):
    value, grad = jax.value_and_grad(right)(PSI)
    results = []
    for unit in (1e-8, 1e-4, 1.0, 1e8):
        compute = hypergradient(outer, inner, solver=solver_in(kind, unit), inverse_hvp=Dense())
        h = compute(PSI, START, inner_args=(jnp.asarray(unit),))
        np.testing.assert_allclose(h.grad, grad, rtol=2e-3, atol=2e-4)
        np.testing.assert_allclose(h.value, value, rtol=1e-5)
        results.append(h.inner.result)
        assert 0 <= h.inner.distance < 1e-3
    assert all(result == Result.successful for result in results)


FAR = {
    "descent at a tiny rate": GradientDescent(optax.sgd(1e-4), 3),
    "descent that takes no step": GradientDescent(optax.sgd(0.1), 0),
    "a callable that stays": stays,
    "one of two proximal steps": ProximalGradient(lambda t, p, s: t, 1e-4, max_steps=2),
}


@pytest.mark.parametrize("name", FAR)
def test_a_theta_that_is_far_raises(name):
    """Through `implicit_grad` and through the gradient of `argmin` alike, in any unit."""
    start = jnp.full(3, 2.0)
    for unit in (1e-6, 1e6):
        solver = FAR[name]
        if isinstance(solver, ProximalGradient):
            solver = ProximalGradient(solver.prox, solver.step_size / unit, solver.max_steps)
        elif isinstance(solver, GradientDescent):
            solver = GradientDescent(solver.transformation, solver.steps, scale=1 / unit)
        compute = implicit_grad(outer, inner, solver=solver, inverse_hvp=Dense())
        with pytest.raises(RuntimeError, match="ended away from a minimum"):
            compute(PSI, start, inner_args=(jnp.asarray(unit),))
        fit = argmin(inner, solver=solver, inverse_hvp=Dense())
        with pytest.raises(RuntimeError, match="ended away from a minimum"):
            jax.grad(lambda p, f=fit, u=unit: outer(f(p, start, jnp.asarray(u)), p))(PSI)


def test_a_far_theta_raises_in_compiled_gradients_of_argmin_too():
    fit = argmin(lambda t, p: jnp.sum((t - p) ** 2), solver=stays)
    grad = jax.jit(jax.grad(lambda p: jnp.sum((fit(p, START) - 2) ** 2)))
    with pytest.raises(RuntimeError, match="ended away from a minimum"):
        jax.block_until_ready(grad(PSI))
    quiet = argmin(lambda t, p: jnp.sum((t - p) ** 2), solver=stays, throw="ignore")
    grad = jax.grad(lambda p: jnp.sum((quiet(p, START) - 2) ** 2))(PSI)
    np.testing.assert_allclose(grad, -4, rtol=1e-5)  # as at theta0: what was asked for
    with pytest.warns(RuntimeWarning, match="ended away from a minimum"):
        warned = argmin(lambda t, p: jnp.sum((t - p) ** 2), solver=stays, throw="warn")
        jax.grad(lambda p: jnp.sum((warned(p, START) - 2) ** 2))(PSI)


def test_a_plain_callable_is_judged_by_where_it_ended():
    args = {"inner_args": (jnp.asarray(1.0),)}
    h = hypergradient(outer, inner, solver=exact)(PSI, START, **args)
    assert h.inner.result == Result.successful and h.inner.distance < 1e-4
    near = lambda loss, theta0: exact(loss, theta0) * 1.02  # noqa: E731
    h = hypergradient(outer, inner, solver=near)(PSI, START, **args)
    assert h.inner.result == Result.not_judged  # 2 % away is neither right nor certainly wrong
    assert 0.005 < h.inner.distance < 1


def test_a_long_descent_is_a_success_and_a_short_one_is_not():
    args = {"inner_args": (jnp.asarray(1.0),)}
    results = []
    for steps in (400, 6):
        compute = hypergradient(
            outer, inner, solver=GradientDescent(optax.sgd(0.2), steps), throw="ignore"
        )
        results.append(compute(PSI, START, **args).inner.result)
    assert results[0] == Result.successful and results[1] != Result.successful


def test_change_is_what_the_value_would_change_by(x64):
    psi, start, args = jnp.full(3, -1.0), jnp.zeros(3), {"inner_args": (jnp.asarray(1.0),)}
    wide = lambda t, p: jnp.sum(jnp.asarray(Y[:3], t.dtype) * t)  # noqa: E731  (linear)
    loss = lambda t, p, u: jnp.sum((t - jnp.sin(p)) ** 2) * u  # noqa: E731
    here = lambda f, t: jnp.sin(psi) * 0.98  # noqa: E731
    h = hypergradient(wide, loss, solver=here)(psi, start, **args)
    np.testing.assert_allclose(h.change, wide(jnp.sin(psi), psi) - h.value, rtol=1e-6)


class Claims(AbstractSolver):
    """A user's solver that says more than it knows."""

    at: float

    def solve(self, loss, theta0, key):
        theta = jnp.full_like(theta0, self.at)
        return Steps(theta, jnp.asarray(1), jnp.zeros(0), Result.successful)


def test_a_solvers_own_word_does_not_stand_against_the_adjoint():
    def compute(at):
        return hypergradient(
            lambda t, p: jnp.sum(t),
            lambda t, p: jnp.sum((t - p) ** 2),
            solver=Claims(at),
            throw="ignore",
        )(jnp.ones(2), jnp.zeros(2))

    expected = {1.0: Result.successful, 1.01: Result.not_judged, 3.0: Result.not_stationary}
    for at, result in expected.items():
        assert compute(at).inner.result == result, at


class TestTolerance:
    """A `tol` that was given is a gradient norm in the loss's own unit, and the last word."""

    def solve(self, solver, unit=1.0):
        theta, record = solver(lambda t: unit * jnp.sum((t - 1) ** 2), jnp.zeros(2))
        return theta, record

    @pytest.mark.parametrize(
        "make",
        [
            lambda tol: GradientDescent(optax.sgd(0.1), 200, tol=tol),
            lambda tol: LBFGS(tol=tol),
            lambda tol: Newton(tol=tol),
            lambda tol: ProximalGradient(lambda t, p, s: t, 0.1, tol=tol),
        ],
        ids=["descent", "LBFGS", "Newton", "proximal gradient"],
    )
    def test_above_it_is_a_failure_and_below_it_a_success(self, make):
        _, record = self.solve(make(1e-3))
        assert record.result == Result.successful and record.gradient_norm <= 1e-3
        stuck = lambda t: jnp.sum((t - 1) ** 4) + jnp.sum(jnp.abs(t - 1)) * 1e-2  # noqa: E731
        _, record = make(1e-4)(stuck, jnp.zeros(2))
        assert record.gradient_norm > 1e-4 and record.result == Result.not_stationary

    def test_a_loose_one_stops_early(self):
        few, many = (self.solve(LBFGS(tol=tol), 1.0)[1] for tol in (10.0, 1e-6))
        assert few.result == Result.successful and few.steps == 0 < many.steps

    def test_it_is_in_units_of_the_loss(self):
        """The same `tol` in a smaller unit asks for less."""
        descent = GradientDescent(optax.sgd(0.1), 200, tol=1e-3)
        _, whole = self.solve(descent)
        _, small = self.solve(descent, 1e-4)
        assert small.steps == 0 < whole.steps or small.steps < whole.steps
        assert small.result == Result.successful

    def test_one_that_failed_is_not_taken_back(self):
        """Though the theta is as near as anyone could wish."""
        compute = hypergradient(
            lambda t, p: jnp.sum(t**2),
            lambda t, p: jnp.sum((t - p) ** 2),
            solver=GradientDescent(optax.sgd(0.1), 50, tol=1e-12),
            throw="ignore",
        )
        h = compute(jnp.ones(2), jnp.zeros(2))
        assert h.inner.distance < 1e-3 and h.inner.result == Result.not_stationary


def test_the_adjoint_does_not_judge_a_noisy_gradient(getkey):
    def noisy(theta, psi, *, key):
        return 0.5 * jnp.sum((theta - psi - 0.01 * jax.random.normal(key, (2,))) ** 2)

    h = hypergradient(
        lambda t, p: jnp.sum(t), noisy, solver=GradientDescent(optax.sgd(0.5), 20),
        inverse_hvp=Dense(),
    )(jnp.ones(2), jnp.zeros(2), key=getkey())  # fmt: skip
    assert h.inner.result == Result.not_judged


def test_where_the_outer_loss_is_at_its_own_minimum():
    """g is 0 there, so is v: nothing is known of the distance, and no success is claimed."""
    compute = hypergradient(
        lambda t, p: jnp.sum((t - 0.7) ** 2), lambda t, p: jnp.sum((t - p) ** 2),
        solver=lambda loss, t: jnp.full(2, 0.7), throw="ignore",
    )  # fmt: skip
    assert compute(jnp.ones(2), jnp.zeros(2)).inner.result == Result.not_judged
    at_both = compute(jnp.full(2, 0.7), jnp.zeros(2))
    assert at_both.inner.result == Result.successful
    np.testing.assert_array_equal(at_both.grad, 0)


def test_a_solution_of_zero(x64):
    """No length of theta to compare with."""
    value, grad = implicit_value_and_grad(
        lambda t, p: jnp.sum(t), lambda t, p: jnp.sum((t - p) ** 2) + jnp.sum(t**4), solver=LBFGS()
    )(jnp.zeros(2), jnp.ones(2))
    np.testing.assert_allclose(value, 0, atol=1e-8)
    np.testing.assert_allclose(grad, 1, rtol=1e-6)
