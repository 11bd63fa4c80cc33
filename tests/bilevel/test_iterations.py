"""Solvers of fixed points: where they end, how many steps they take, and how they are judged."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel import Result, argmin, fixed_point, hypergradient, root
from bilevel.problems import Constrained, FixedPoint, Root
from bilevel.solvers import (
    LBFGS,
    Anderson,
    FixedPointIteration,
    GradientDescent,
    InteriorPoint,
    Jaxopt,
    Newton,
    Optimistix,
    ProximalGradient,
)

RNG = np.random.default_rng(1)
TURN = 0.9 * np.linalg.qr(RNG.normal(size=(6, 6)))[0]
SHIFT = RNG.normal(size=6)
FIXED = np.linalg.solve(np.eye(6) - TURN, SHIFT)


def affine(theta, key=None):
    return jnp.asarray(TURN, theta.dtype) @ theta + jnp.asarray(SHIFT, theta.dtype)


def test_anderson_takes_fewer_steps(x64):
    plain, slow = FixedPointIteration()(affine, jnp.zeros(6))
    fast, quick = Anderson()(affine, jnp.zeros(6))
    for theta, record in ((plain, slow), (fast, quick)):
        np.testing.assert_allclose(theta, FIXED, rtol=1e-7)
        assert record.result == Result.successful
        away = np.linalg.norm(theta - FIXED) / np.linalg.norm(FIXED)
        assert record.distance < 1e-7 and away < 10 * record.distance + 1e-14
    assert quick.steps < slow.steps / 4


def test_the_record_is_the_iteration_written_out(x64):
    theta, record = FixedPointIteration(max_steps=5)(affine, jnp.zeros(6))
    expected, sizes = jnp.zeros(6), []
    for _ in range(5):
        after = affine(expected)
        sizes.append(np.linalg.norm(after - expected))
        expected = after
    sizes.append(np.linalg.norm(affine(expected) - expected))
    np.testing.assert_allclose(theta, expected, rtol=1e-12)
    np.testing.assert_allclose(record.losses, sizes, rtol=1e-12)
    np.testing.assert_allclose(record.gradient_norm, sizes[-1], rtol=1e-12)
    assert record.steps == 5 and record.result == Result.not_stationary
    # Each step is 0.9 times the one before: a residual r is 10 r away, at most.
    assert record.distance > np.linalg.norm(theta - FIXED) / np.linalg.norm(theta)


@pytest.mark.parametrize("loop", ["loop", "unroll", "dispatch"])
@pytest.mark.parametrize("make", [FixedPointIteration, Anderson])
def test_all_ways_of_taking_steps_agree(make, loop, x64):
    solver, same = make(max_steps=40, tol=1e-1, loop=loop), make(max_steps=40, tol=1e-1)
    theta, record = solver(affine, jnp.zeros(6))
    np.testing.assert_allclose(theta, same(affine, jnp.zeros(6))[0], rtol=1e-9)
    assert record.gradient_norm <= 1e-1 and 1 < record.steps < 40
    assert record.result == Result.successful


def test_a_tolerance_that_is_not_reached_is_reported(x64):
    for make in (FixedPointIteration, Anderson):
        _, record = make(max_steps=2, tol=1e-9)(affine, jnp.zeros(6))
        assert record.result == Result.not_stationary and record.steps == 2


def test_what_diverges(x64):
    """Plain steps of a map that is no contraction end in a failure; Anderson's do not."""

    def repelling(theta):
        return 3 - 1.5 * theta

    _, record = FixedPointIteration(max_steps=50)(repelling, jnp.zeros(2))
    assert record.result == Result.not_stationary
    theta, record = Anderson()(repelling, jnp.zeros(2))
    np.testing.assert_allclose(theta, 1.2, rtol=1e-9)
    assert record.result == Result.successful
    with pytest.raises(RuntimeError, match="NaN or infinity|away from a minimum, or a root"):
        fixed_point(lambda t, p: p * jnp.exp(t), solver=FixedPointIteration())(
            jnp.asarray(2.0), jnp.asarray(1.0)
        )


def test_the_best_point_is_kept(x64):
    """A map with a jump: no later residual is as small as the best."""
    seen = []

    def f(theta):
        jax.debug.callback(lambda t: seen.append(float(t)), theta)
        return jnp.where(jnp.abs(theta - 1) < 0.05, theta + 0.01, 1.5 * theta + 1)

    theta, record = Anderson(max_steps=12, loop="dispatch")(f, jnp.asarray(1.02))
    jax.effects_barrier()
    sizes = [abs(float(jnp.where(abs(t - 1) < 0.05, 0.01, 0.5 * t + 1))) for t in seen[:-1]]
    np.testing.assert_allclose(record.gradient_norm, min(sizes), rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("make", [FixedPointIteration, Anderson])
def test_lower_precision(make, dtype):
    theta, record = make()(affine, jnp.zeros(6, dtype))
    tolerance = 2e-2 if dtype == "float16" else 1e-4
    np.testing.assert_allclose(theta.astype("float32"), FIXED, rtol=tolerance, atol=tolerance)
    assert theta.dtype == dtype


def test_a_unit_of_theta_does_not_matter(x64):
    for unit in (1e-8, 1e8):
        for make in (FixedPointIteration, Anderson):
            theta, record = make()(lambda t, u=unit: u * affine(t / u), jnp.zeros(6))
            np.testing.assert_allclose(theta / unit, FIXED, rtol=1e-7)
            assert record.result == Result.successful


def test_a_key_makes_it_stochastic(getkey):
    def noisy(theta, psi, *, key):
        return 0.5 * theta + psi + 0.01 * jax.random.normal(key, theta.shape)

    solver = FixedPointIteration(max_steps=30, tol=0.2)
    theta = fixed_point(noisy, solver=solver)(jnp.ones(3), jnp.zeros(3), key=getkey())
    np.testing.assert_allclose(theta, 2, atol=0.5)


def minimised(theta, psi):
    return jnp.sum((theta - psi) ** 2)


MINIMISERS = {
    "LBFGS": LBFGS(),
    "GradientDescent": GradientDescent(optax.sgd(0.1), 3),
    "ProximalGradient": ProximalGradient(lambda t, p, s: t, 0.1),
}
ROOT, FIXED_POINT = Root(lambda t, p: t - p), FixedPoint(lambda t, p: p + 0 * t)
CONSTRAINED = Constrained(minimised, lambda t, p: t)


@pytest.mark.parametrize("name", MINIMISERS)
@pytest.mark.parametrize("inner", [ROOT, FIXED_POINT, CONSTRAINED])
def test_a_solver_of_minima_is_refused_elsewhere(name, inner):
    kind = type(inner).__name__
    with pytest.raises(ValueError) as raised:
        hypergradient(lambda t, p: jnp.sum(t), inner, solver=MINIMISERS[name])
    text = str(raised.value)
    assert text.startswith(f"solver={name} finds minima of a loss, and inner is a {kind}: pass `")
    assert "\n" not in text and len(text) < 400


@pytest.mark.parametrize("solver", [FixedPointIteration(), Anderson(), InteriorPoint()])
@pytest.mark.parametrize("inner", [minimised, ROOT])
def test_and_the_other_way_round(solver, inner):
    name = type(solver).__name__
    with pytest.raises(ValueError, match=f"solver={name} finds .*, and inner is a .*: pass `"):
        argmin(inner, solver=solver)


def test_solvers_of_other_libraries_for_other_problems():
    optx = pytest.importorskip("optimistix")
    iteration = Optimistix(optx.FixedPointIteration(1e-6, 1e-6))
    with pytest.raises(ValueError, match="finds fixed points .*, and inner is a Root"):
        argmin(ROOT, solver=iteration)
    with pytest.raises(ValueError, match="finds roots .*Newton.*, and inner is a loss"):
        argmin(minimised, solver=Optimistix(optx.Newton(1e-6, 1e-6)))
    jaxopt = pytest.importorskip("jaxopt")
    with pytest.raises(ValueError, match="solver=Jaxopt finds minima of a loss"):
        root(lambda t, p: t - p, solver=Jaxopt(jaxopt.LBFGS(fun=None)))


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: FixedPointIteration(max_steps=0), "max_steps=0 leaves no step"),
        (lambda: FixedPointIteration(tol=-1.0), "tol=-1.0 is negative"),
        (lambda: Anderson(loop="for"), "loop='for' is not known"),
        (lambda: Anderson(memory_size=0), "memory_size=0 keeps nothing"),
        (lambda: Anderson(mixing=1.5), "mixing=1.5 is not in"),
        (lambda: InteriorPoint(max_steps=0), "max_steps=0 leaves no step"),
        (
            lambda: argmin(FIXED_POINT, solver=Anderson),
            "solver=Anderson is a class.*`Anderson\\(\\)`",
        ),
    ],
)
def test_bad_settings(make, match, unchecked):
    with pytest.raises(ValueError, match=match):
        make()


def test_newton_needs_no_contraction(x64):
    theta, record = Newton()(lambda t: jnp.sum((t - 1) ** 2), jnp.zeros(2))
    fit = fixed_point(lambda t, p: 3 - p * t, solver=Newton(steps=1), with_record=True)
    theta, record = fit(jnp.asarray(1.5), jnp.zeros(2))
    np.testing.assert_allclose(theta, 1.2, rtol=1e-9)
    assert record.result == Result.successful
