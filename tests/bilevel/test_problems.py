"""Roots, fixed points, equilibria and constrained minima: derivatives equal closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import lineax
import numpy as np
import pytest

from bilevel import Cause, Result, argmin, check_hypergradient, fixed_point, hypergradient, root
from bilevel.inverse_hvp import CG, Dense, Lineax, Neumann
from bilevel.problems import Constrained, FixedPoint, Root
from bilevel.solvers import (
    Anderson,
    FixedPointIteration,
    InteriorPoint,
    Newton,
    Optimistix,
)

RNG = np.random.default_rng(0)
SIZE = 4
MATRIX = RNG.normal(size=(SIZE, SIZE)) + 3 * np.eye(SIZE)
INPUT = RNG.normal(size=(SIZE, 3))
PSI, WEIGHTS = RNG.normal(size=3), RNG.normal(size=SIZE)
# A contraction whose eigenvalues are complex.
TURN = 0.6 * np.linalg.qr(RNG.normal(size=(SIZE, SIZE)))[0]


def linear(theta, psi):
    return jnp.asarray(MATRIX) @ theta - jnp.asarray(INPUT) @ jnp.sin(psi)


def linear_solution(psi):
    return jnp.linalg.solve(jnp.asarray(MATRIX), jnp.asarray(INPUT) @ jnp.sin(psi))


def cubic(theta, psi):
    """Monotone in A theta, and not symmetric in theta."""
    at, wanted = jnp.asarray(MATRIX) @ theta, jnp.asarray(INPUT) @ psi
    return at**3 / 10 + at - wanted**3 / 10 - wanted


def cubic_solution(psi):
    return jnp.linalg.solve(jnp.asarray(MATRIX), jnp.asarray(INPUT) @ psi)


def turned(theta, psi):
    return jnp.asarray(TURN) @ theta * jnp.cos(psi[0]) + jnp.asarray(INPUT) @ psi


def turned_solution(psi):
    matrix = jnp.eye(SIZE) - jnp.asarray(TURN) * jnp.cos(psi[0])
    return jnp.linalg.solve(matrix, jnp.asarray(INPUT) @ psi)


NEWTON = Newton(Dense(), steps=7)
PROBLEMS = {
    "a linear root": (Root(linear), Newton(Dense()), linear_solution),
    "a nonlinear root": (Root(cubic), NEWTON, cubic_solution),
    "a fixed point": (FixedPoint(turned), Anderson(tol=1e-12), turned_solution),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_derivatives_in_both_modes(name, x64):
    """To 1e-8, through jit and vmap; and those of derivatives to 1e-6."""
    inner, solver, solution = PROBLEMS[name]
    psis = jnp.asarray(np.stack([PSI, PSI + 0.1]))
    fit = partial(argmin, inner, solver=solver, inverse_hvp=Dense())
    backward, forward = fit(), fit(forward_mode=True)
    start = jnp.zeros(SIZE)
    expected = jax.vmap(jax.jacfwd(solution))(psis)
    for jacobian, run in ((jax.jacrev, backward), (jax.jacrev, forward), (jax.jacfwd, forward)):
        found = jax.jit(jax.vmap(lambda psi, j=jacobian, r=run: j(r)(psi, start)))(psis)
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)
    theta = backward(psis[0], start)
    np.testing.assert_allclose(theta, solution(psis[0]), rtol=1e-8, atol=1e-9)

    def value(of, psi):
        return jnp.asarray(WEIGHTS) @ of(psi) ** 2

    second = jax.jit(jax.hessian(partial(value, lambda psi: forward(psi, start))))(psis[0])
    exact = jax.hessian(partial(value, solution))(psis[0])
    np.testing.assert_allclose(second, exact, rtol=1e-6, atol=1e-7)


INVERSES = {
    "the default": None,
    "GMRES": Lineax(lineax.GMRES(1e-12, 1e-12, restart=SIZE)),
    "Neumann": Neumann(steps=200, step_size=1.0, rtol=1e-11),
    "CG with damping of nothing": CG(damping=0.0),
}


@pytest.mark.parametrize("name", INVERSES)
def test_inverses_that_take_what_is_not_symmetric(name, x64):
    compute = hypergradient(
        lambda theta, psi: jnp.asarray(WEIGHTS) @ theta + psi @ psi,
        FixedPoint(turned),
        solver=FixedPointIteration(),
        inverse_hvp=INVERSES[name],
    )
    h = compute(jnp.asarray(PSI), jnp.zeros(SIZE))
    exact = jax.grad(lambda psi: jnp.asarray(WEIGHTS) @ turned_solution(psi) + psi @ psi)
    np.testing.assert_allclose(h.grad, exact(jnp.asarray(PSI)), rtol=1e-8)
    assert h.inner.result == h.adjoint.result == Result.successful
    assert h.inner.measure == "residual" and "  residual norm    " in str(h)
    assert h.inner.multipliers is None


def cournot(quantities, psi):
    """Each of two firms at its own best: price a - b (q1 + q2), costs c_i q_i + q_i^2 / 2."""

    def profit(own, other, cost):
        return (psi["a"] - psi["b"] * (own + other)) * own - cost * own - own**2 / 2

    one, other = quantities["one"], quantities["other"]
    return {
        "one": jax.grad(profit)(one, other, psi["cost"][0]),
        "other": jax.grad(profit)(other, one, psi["cost"][1]),
    }


def equilibrium(psi):
    a, b, (c, d) = psi["a"], psi["b"], psi["cost"]
    own = 2 * b + 1
    return {
        "one": (own * (a - c) - b * (a - d)) / (own**2 - b**2),
        "other": (own * (a - d) - b * (a - c)) / (own**2 - b**2),
    }


def test_nash_equilibrium(x64, close):
    psi = {"a": jnp.asarray(10.0), "b": jnp.asarray(0.7), "cost": jnp.array([1.0, 2.0])}
    start = {"one": jnp.asarray(0.0), "other": jnp.asarray(0.0)}
    fit = root(cournot, solver=Newton(Dense()), inverse_hvp=Dense())
    close(fit(psi, start), equilibrium(psi), 1e-10)
    for of in ("one", "other"):
        found = jax.grad(lambda psi, of=of: fit(psi, start)[of])(psi)
        close(found, jax.grad(lambda psi, of=of: equilibrium(psi)[of])(psi), 1e-8)


def test_nested(x64):
    """A fixed point within a root: theta = f(theta, s) with s^2 = psi."""
    square_root = root(lambda s, psi: s**2 - psi, solver=Newton(Dense(), steps=8))

    def f(theta, psi):
        return 0.5 * theta + square_root(psi, jnp.ones(()))

    fit = fixed_point(f, solver=FixedPointIteration())
    value = lambda psi: fit(psi, jnp.zeros(()))  # noqa: E731
    np.testing.assert_allclose(value(jnp.asarray(2.0)), 2 * np.sqrt(2), rtol=1e-9)
    np.testing.assert_allclose(jax.grad(value)(jnp.asarray(2.0)), 1 / np.sqrt(2), rtol=1e-8)


def test_arguments_aux_and_the_record(x64):
    def f(theta, psi, x, *, shift):
        after = 0.5 * theta + psi * x + shift
        return after, jnp.sum(after)

    fit = fixed_point(f, solver=FixedPointIteration(), inner_has_aux=True, with_record=True)
    theta, record = fit(jnp.asarray(1.0), jnp.zeros(2), jnp.array([1.0, 2.0]), shift=0.5)
    np.testing.assert_allclose(theta, [3, 5], rtol=1e-9)
    np.testing.assert_allclose(record.aux, 8, rtol=1e-9)
    assert record.result == Result.successful
    np.testing.assert_allclose(record.losses[0], np.hypot(1.5, 2.5))


def test_a_callable_is_given_the_function(x64):
    """F of a root, f of a fixed point, and the residual of both parts of a KKT point."""
    fit = root(lambda t, p: t - p, solver=lambda F, t: t - F(t))
    np.testing.assert_allclose(fit(jnp.asarray(3.0), jnp.asarray(1.0)), 3)
    assert jax.grad(fit)(jnp.asarray(3.0), jnp.asarray(1.0)) == pytest.approx(1)
    fit = fixed_point(lambda t, p: p + 0 * t, solver=lambda f, t: f(t))
    np.testing.assert_allclose(fit(jnp.asarray(3.0), jnp.asarray(1.0)), 3)


def other_libraries():
    optx = pytest.importorskip("optimistix")
    return {
        "root": (Root(cubic), optx.Newton(1e-10, 1e-10), cubic_solution),
        "fixed": (FixedPoint(turned), optx.FixedPointIteration(1e-11, 1e-11), turned_solution),
        "root of a fixed point": (FixedPoint(turned), optx.Newton(1e-10, 1e-10), turned_solution),
    }


@pytest.mark.parametrize("name", ["root", "fixed", "root of a fixed point"])
def test_through_optimistix(name, x64):
    inner, solver, solution = other_libraries()[name]
    fit = argmin(inner, solver=Optimistix(solver), inverse_hvp=Dense(), with_record=True)
    theta, record = fit(jnp.asarray(PSI), jnp.zeros(SIZE))
    np.testing.assert_allclose(theta, solution(jnp.asarray(PSI)), rtol=1e-8, atol=1e-9)
    assert record.steps > 1 and record.result == Result.successful
    grad = jax.grad(lambda psi: jnp.asarray(WEIGHTS) @ fit(psi, jnp.zeros(SIZE))[0])
    exact = jax.grad(lambda psi: jnp.asarray(WEIGHTS) @ solution(psi))
    np.testing.assert_allclose(grad(jnp.asarray(PSI)), exact(jnp.asarray(PSI)), rtol=1e-8)


class TestCheck:
    def outer(self, theta, psi):
        return jnp.sum(theta**3) + psi @ psi

    def test_a_root_passes(self, x64):
        check = check_hypergradient(self.outer, Root(linear), solver=Newton(Dense()))
        found = check(jnp.asarray(PSI), jnp.zeros(SIZE))
        assert found.passed and found.error < 1e-8 and "inner residual norm" in str(found)
        assert found.smallest_eigenvalue is None

    def test_too_few_steps_are_named(self, x64):
        solver = FixedPointIteration(max_steps=2)
        check = check_hypergradient(self.outer, FixedPoint(turned), solver=solver)
        found = check(jnp.asarray(PSI), jnp.zeros(SIZE))
        assert not found.passed and found.causes[0] == Cause.not_stationary


def test_a_singular_root_says_so(x64):
    """At the root, where only the sum of theta is determined."""
    fit = root(
        lambda theta, psi: jnp.sum(theta - psi) * jnp.ones(2),
        solver=lambda F, theta: theta, inverse_hvp=Dense(),
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="Jacobian of a root, is singular"):
        jax.grad(lambda psi: fit(psi, jnp.ones(2))[0])(jnp.asarray(1.0))


def test_a_root_that_is_elsewhere_raises(x64):
    fit = root(linear, solver=lambda F, theta: theta, inverse_hvp=Dense())
    with pytest.raises(RuntimeError, match="away from a minimum, or a root"):
        jax.grad(lambda psi: jnp.sum(fit(psi, jnp.zeros(SIZE))))(jnp.asarray(PSI))


def test_a_psi_that_is_not_used_warns(x64):
    compute = hypergradient(
        lambda t, p: jnp.sum(t), Root(lambda t, p: t - 1), solver=Newton(Dense()),
        inverse_hvp=Dense(),
    )  # fmt: skip
    with pytest.warns(UserWarning, match="inner does not depend on psi"):
        compute(jnp.asarray(1.0), jnp.zeros(2))


MISTAKES = {
    "F of another shape": (
        lambda: root(lambda t, p: t[:1], solver=NEWTON)(jnp.ones(2), jnp.ones(2)),
        ("F returned a residual", "(1,)", "(2,)", "theta0"),
    ),
    "f of another structure": (
        lambda: fixed_point(lambda t, p: {"t": t}, solver=Anderson())(jnp.ones(2), jnp.ones(2)),
        ("f returned a point", "'t'", "theta0"),
    ),
    "no function": (lambda: Root(3.0), ("F=3.0 is not a function", "F(theta, psi, *args)")),
    "nothing but a loss": (
        lambda: Constrained(lambda t, p: 0.0), ("equality and inequality", "pass that loss itself"),
    ),
    "a constraint that is none": (
        lambda: Constrained(lambda t, p: 0.0, equality=1.0), ("equality=1.0", "function"),
    ),
    "the loss of a constrained problem": (
        lambda: argmin(Constrained(lambda t, p: t, lambda t, p: t), solver=InteriorPoint())(
            jnp.ones(2), jnp.ones(2)
        ),
        ("loss must return a scalar", "(2,)"),
    ),
    "aux of a constrained problem": (
        lambda: argmin(
            Constrained(lambda t, p: 0.0, lambda t, p: t), solver=InteriorPoint(),
            inner_has_aux=True,
        )(jnp.ones(2), jnp.ones(2)),
        ("inner_has_aux=True", "Constrained", "outer"),
    ),
    "a key for Anderson": (
        lambda: fixed_point(lambda t, p, key: t, solver=Anderson())(
            jnp.ones(2), jnp.ones(2), key=jax.random.key(0)
        ),
        ("key", "Anderson"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_sentence(name, unchecked):
    run, words = MISTAKES[name]
    with pytest.raises(ValueError) as raised:
        run()
    text = str(raised.value)
    assert "\n" not in text and len(text) < 400
    for word in words:
        assert word in text, (word, text)
