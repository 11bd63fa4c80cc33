"""The outer problem in one call: where it ends, what it says, and what it costs."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel import Result, hypergradient, minimize
from bilevel.inverse_hvp import Dense
from bilevel.solvers import LBFGS, Newton, NewtonCG


def ridge(theta, psi, x, y):
    return jnp.mean((x @ theta - y) ** 2) + jnp.sum(jnp.exp(psi) * theta**2)


def error(theta, psi, x, y):
    return jnp.mean((x @ theta - y) ** 2)


def rows(features, seed=0):
    """Rows to train and to validate with; half of the features say nothing."""
    keys = jax.random.split(jax.random.key(seed), 2)
    x = jax.random.normal(keys[0], (60, features))
    y = x[:, : features // 2].sum(1) + jax.random.normal(keys[1], (60,))
    return (x[:30], y[:30]), (x[30:], y[30:])


def best_penalty(train, valid) -> Any:
    """That of ridge regression with one penalty, by bisection of the derivative."""
    x, y = (np.asarray(part, np.float64) for part in train)
    xv, yv = (np.asarray(part, np.float64) for part in valid)

    def value(psi):
        theta = np.linalg.solve(x.T @ x / len(y) + np.exp(psi) * np.eye(x.shape[1]), x.T @ y / 30)
        return np.mean((xv @ theta - yv) ** 2)

    from scipy.optimize import minimize_scalar

    return minimize_scalar(value, bounds=(-6, 2), method="bounded", options={"xatol": 1e-10})


@pytest.mark.parametrize("solver", [None, Newton(), LBFGS()], ids=["default", "Newton", "LBFGS"])
def test_one_penalty_is_that_of_a_search(x64, solver):
    train, valid = rows(10)
    expected = best_penalty(train, valid)
    args: dict[str, Any] = {"outer_args": valid, "inner_args": train}
    found = minimize(error, ridge, jnp.asarray(-5.0), jnp.zeros(10), solver=solver, **args)
    assert found.result == Result.successful
    assert float(found.value) == pytest.approx(expected.fun, rel=1e-7)
    assert float(found.psi) == pytest.approx(expected.x, abs=2e-3)
    again = hypergradient(error, ridge, solver=Newton(Dense()))(found.psi, found.theta, **args)
    assert float(found.hypergradient.grad) == pytest.approx(float(again.grad), abs=1e-8)
    assert found.values.shape == found.gradient_norms.shape == (found.steps + 1,)
    assert np.all(np.diff(found.values) <= 1e-4 * found.values[0])


def test_bounds_are_kept_and_reached(x64):
    """At the end the gradient pushes against each bound that is reached, and is 0 elsewhere."""
    train, valid = rows(10)
    psi0 = {"left": jnp.full(5, -3.0), "right": jnp.full(5, 5.0)}

    def penalised(theta, psi, x, y):
        return ridge(theta, jnp.concatenate((psi["left"], psi["right"])), x, y)

    bounds = ({"left": jnp.full(5, -4.0), "right": -2.0}, 1.0)
    args: dict[str, Any] = {"outer_args": valid, "inner_args": train}
    found = minimize(error, penalised, psi0, jnp.zeros(10), bounds=bounds, tol=1e-10, **args)
    psi = np.concatenate((found.psi["left"], found.psi["right"]))
    gradient = found.hypergradient.grad
    gradient = np.concatenate((gradient["left"], gradient["right"]))
    lower = np.repeat((-4.0, -2.0), 5)
    assert np.all((psi >= lower) & (psi <= 1))
    at_lower, at_upper = psi == lower, psi == 1
    assert at_lower.any() and at_upper.any()
    assert np.all(gradient[at_lower] > 0) and np.all(gradient[at_upper] < 0)
    assert np.abs(gradient[~at_lower & ~at_upper]).max() < 1e-4
    assert found.gradient_norms[-1] < 1e-3


def test_what_it_converges_to_is_free_of_units():
    train, valid = rows(6)
    args: dict[str, Any] = {"outer_args": valid, "inner_args": train}
    psi0, theta0 = jnp.full(6, -2.0), jnp.zeros(6)
    values = []
    for unit in (1e-6, 1.0, 1e6):

        def scaled(theta, psi, x, y, unit=unit):
            return unit * ridge(theta, psi, x, y)

        found = minimize(error, scaled, psi0, theta0, bounds=(-4, 2), throw="ignore", **args)
        values.append(float(found.value))
    np.testing.assert_allclose(values, values[1], rtol=1e-3)


def test_many_numbers_and_a_loss_that_is_not_quadratic():
    """A weight a row: those of rows with wrong labels fall."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (400, 5))
    clean = x.sum(1) > 0
    wrong = jax.random.bernoulli(keys[1], 0.3, (300,))
    y = jnp.where(jnp.concatenate((wrong, jnp.zeros(100, bool))) != clean, 1.0, -1.0)

    def inner(theta, psi):
        losses = jnp.logaddexp(0, -y[:300] * (x[:300] @ theta))
        return jnp.mean(jax.nn.sigmoid(psi) * losses) + 1e-2 * jnp.sum(theta**2)

    def outer(theta, psi):
        return jnp.mean(jnp.logaddexp(0, -y[300:] * (x[300:] @ theta)))

    found = minimize(outer, inner, jnp.zeros(300), jnp.zeros(5), throw="ignore")
    assert found.values[-1] < 0.75 * found.values[0]
    weights = jax.nn.sigmoid(found.psi)
    assert float(weights[wrong].mean()) < 0.5 * float(weights[~wrong].mean())
    assert found.evaluations <= 3 * found.steps + 10


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_penalties_that_go_to_infinity(seed, dtype):
    """Most of them do, and the inner Hessian is then as ill-conditioned as penalties are unlike.

    Whatever it ends in, the value is that of a dense solution, and never rose.
    """
    with jax.enable_x64(dtype is np.float64):
        draw = np.random.default_rng(seed)
        x = draw.normal(size=(60, 20)).astype(dtype)
        y = x[:, :5].sum(1) + draw.normal(size=60).astype(dtype)
        inner = partial(ridge, x=x[:30], y=y[:30])
        outer = partial(error, x=x[30:], y=y[30:])
        psi = jnp.full(20, -3.0, dtype)
        found = minimize(outer, inner, psi, jnp.zeros(20, dtype), throw="ignore")
    x, y = np.asarray(x, float), np.asarray(y, float)
    hessian = x[:30].T @ x[:30] / 30 + np.diag(np.exp(np.asarray(found.psi, float)))
    theta = np.linalg.solve(hessian, x[:30].T @ y[:30] / 30)
    near = 1e-4 if dtype is np.float32 else 1e-6
    assert found.value == pytest.approx(np.mean((x[30:] @ theta - y[30:]) ** 2), rel=near)
    assert np.all(np.diff(found.values) <= near * found.values[:-1])
    assert found.result != Result.no_descent


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_outer_loss_that_goes_to_zero(dtype):
    """Its gradient is then all rounding, and no failure; one begins at the very minimum."""
    for target in np.linspace(0.1, 0.9, 9):
        with jax.enable_x64(dtype is np.float64):
            found = minimize(
                lambda theta, psi: jnp.sum((theta - target) ** 2),  # noqa: B023
                lambda theta, psi: jnp.sum((theta - 1) ** 2) + jnp.exp(psi) * jnp.sum(theta**2),
                jnp.zeros((), dtype),
                jnp.zeros(3, dtype),
            )
        assert found.result == Result.successful
        assert float(found.value) < 1e-10
        np.testing.assert_allclose(np.asarray(found.theta), target, rtol=1e-5)


def test_the_solves_are_no_more_accurate_than_the_progress_asks_for(x64, monkeypatch):
    from bilevel import _outer

    asked = []
    compute = _outer.Outer._compute

    def watched(self, flat, rtol, *rest, **more):
        asked.append(float(rtol))
        return compute(self, flat, rtol, *rest, **more)

    monkeypatch.setattr(_outer.Outer, "_compute", watched)
    train, valid = rows(6)
    args: dict[str, Any] = {"outer_args": valid, "inner_args": train}
    minimize(error, ridge, jnp.full(6, -2.0), jnp.zeros(6), bounds=(-4, 2), **args)
    assert asked[0] == _outer.LOOSEST and asked[-1] == 1e-10
    assert asked[-2] < 0.2 * asked[0]


def test_steps_are_told_and_may_be_ended(capsys):
    train, valid = rows(6)
    args: dict[str, Any] = {"outer_args": valid, "inner_args": train, "throw": "ignore"}
    psi0, theta0 = jnp.full(6, -2.0), jnp.zeros(6)
    minimize(error, ridge, psi0, theta0, callback=print, max_steps=3, **args)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["1", "2", "3"]
    told = []

    def twice(now):
        told.append(now)
        return len(told) == 2

    found = minimize(error, ridge, psi0, theta0, callback=twice, **args)
    assert found.steps == len(told) == 2
    np.testing.assert_array_equal(found.psi, told[-1].psi)
    assert found.evaluations == told[-1].evaluations, "there and then"
    assert found.result == Result.not_judged


def test_steps_that_run_out_are_said_and_nothing_is_lost():
    train, valid = rows(6)
    args: dict[str, Any] = {"outer_args": valid, "inner_args": train, "max_steps": 1}
    with pytest.raises(RuntimeError, match="max_steps") as caught:
        minimize(error, ridge, jnp.full(6, -2.0), jnp.zeros(6), **args)
    found = caught.value.minimum  # type: ignore[attr-defined]
    assert found.values[1] < found.values[0]
    ignored = minimize(error, ridge, jnp.full(6, -2.0), jnp.zeros(6), throw="ignore", **args)
    assert ignored.result == Result.outer_max_steps_reached
    np.testing.assert_array_equal(ignored.psi, found.psi)


def test_a_wrong_gradient_is_no_success():
    """A solver that ignores psi: no step downhill lowers the value."""

    def inner(theta, psi):
        return jnp.sum((theta - psi) ** 2)

    def stuck(loss, theta):
        return jnp.ones(2)

    found = minimize(
        lambda theta, psi: jnp.sum(theta**2) + 0.0 * jnp.sum(psi),
        inner,
        jnp.full(2, 2.0),
        jnp.ones(2),
        solver=stuck,
        throw="ignore",
    )
    assert found.result != Result.successful


def test_a_start_where_nothing_is_finite_is_said():
    def inner(theta, psi):
        return jnp.sum((theta - psi) ** 2)

    with pytest.raises(RuntimeError, match="NaN"):
        minimize(lambda t, p: jnp.sum(jnp.log(-(t**2))), inner, jnp.ones(2), jnp.ones(2))


def test_a_minimum_at_the_start_takes_no_step():
    def inner(theta, psi):
        return jnp.sum((theta - psi) ** 2)

    found = minimize(lambda t, p: jnp.sum((t - 1) ** 2), inner, jnp.ones(2), jnp.ones(2))
    assert found.steps == 0 and found.result == Result.successful


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"bounds": (1.0, 0.0)}, "above the upper"),
        ({"bounds": 1.0}, "not a pair"),
        ({"bounds": (jnp.zeros(3), None)}, r"shape \(3,\)"),
        ({"bounds": ({"a": 1.0, "b": 2.0}, None)}, "lacks a single leaf"),
        ({"bounds": (float("nan"), 1.0)}, "NaN"),
        ({"max_steps": 0}, "max_steps=0"),
        ({"tol": -1.0}, "tol=-1.0"),
        ({"solver": LBFGS}, "is a class"),
    ],
)
def test_mistakes(given, words):
    with pytest.raises(ValueError, match=words):
        minimize(
            lambda t, p: jnp.sum(t),
            lambda t, p: jnp.sum((t - p) ** 2),
            jnp.ones(2),
            jnp.ones(2),
            **given,
        )


def test_it_says_that_it_cannot_be_traced():
    def found(psi):
        return minimize(
            lambda t, p: jnp.sum(t), lambda t, p: jnp.sum((t - p) ** 2), psi, jnp.ones(2)
        ).psi

    with pytest.raises(ValueError, match=r"cannot run under jax\.jit"):
        jax.jit(found)(jnp.ones(2))


def test_the_second_run_compiles_nothing(compilations):
    train, valid = rows(6)
    psi0, theta0 = jnp.full(6, -2.0), jnp.zeros(6)

    def run(scale):
        args: dict[str, Any] = {"outer_args": valid, "inner_args": (train[0], scale * train[1])}
        return minimize(error, ridge, psi0, theta0, bounds=(-4, 2), throw="ignore", **args)

    run(1.0)
    before = compilations()
    run(1.1)
    assert compilations() == before


def test_psi_of_several_types_keeps_them():
    def inner(theta, psi):
        return jnp.sum((theta - psi["a"].astype(jnp.float32) * psi["n"]) ** 2)

    psi0 = {"a": jnp.ones(2, jnp.bfloat16), "n": 2}
    found = minimize(lambda t, p: jnp.sum((t - 1) ** 2), inner, psi0, jnp.zeros(2), throw="ignore")
    assert found.psi["a"].dtype == jnp.bfloat16 and found.psi["n"] == 2
    np.testing.assert_allclose(found.theta, 1.0, atol=2e-2)


def test_an_accuracy_of_its_own_is_as_good_as_the_default(x64):
    train, valid = rows(6)
    args: dict[str, Any] = {"outer_args": valid, "inner_args": train, "bounds": (-4, 2)}
    psi0, theta0 = jnp.full(6, -2.0), jnp.zeros(6)
    exact = minimize(error, ridge, psi0, theta0, solver=NewtonCG(), inverse_hvp=Dense(), **args)
    found = minimize(error, ridge, psi0, theta0, **args)
    assert float(found.value) == pytest.approx(float(exact.value), rel=1e-6)


def test_bounds_are_matched_by_their_places(unchecked):
    psi0 = {"rate": jnp.zeros(2), "decay": {"a": jnp.zeros(()), "b": jnp.zeros(3)}, "count": 3}

    def apart(theta, psi):
        return jnp.sum((theta - 3.0) ** 2) + sum(
            jnp.sum((leaf - 5) ** 2) for leaf in jax.tree.leaves(psi["decay"])
        )

    def inner(theta, psi):
        return jnp.sum((theta - psi["rate"]) ** 2)

    upper = {"decay": 1.0, "rate": jnp.array([2.0, 9.0]), "count": None}
    found = minimize(apart, inner, psi0, jnp.zeros(2), bounds=(None, upper))
    np.testing.assert_allclose(found.psi["rate"], [2, 3], atol=1e-3)
    np.testing.assert_allclose(found.psi["decay"]["b"], 1)
    for bound, words in (
        ({"decay": 1.0, "wrong": 2.0}, r"lacks \['rate'\]"),
        ({"decay": 1.0, "rate": 2.0, "count": 4}, r"holds \['count'\], where psi0 has no"),
    ):
        with pytest.raises(ValueError, match=words):
            minimize(apart, inner, psi0, jnp.zeros(2), bounds=(None, bound))
    with pytest.raises(ValueError, match="psi0 holds complex numbers"):
        minimize(apart, inner, jnp.ones(2, jnp.complex64), jnp.zeros(2))
