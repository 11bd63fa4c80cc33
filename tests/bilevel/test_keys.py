"""One key means one noise: in solving, in unrolling, and in a second call; and no draw twice."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel import argmin, hypergradient, unrolled_value_and_grad
from bilevel.inverse_hvp import SGD, Neumann
from bilevel.solvers import GradientDescent, ProximalGradient

PSI, START = jnp.ones(2), jnp.zeros(2)


def noisy(theta, psi, *, key):
    return 0.5 * jnp.sum((theta - psi - jax.random.normal(key, (2,))) ** 2)


def outer(theta, psi):
    return jnp.sum(theta)


@pytest.mark.parametrize("loop", ["loop", "unroll", "dispatch"])
def test_unrolling_sees_what_the_solver_saw(loop, getkey):
    """The same theta, so the same outer value, with every way of taking steps."""
    solver = GradientDescent(optax.sgd(0.5), 4, loop=loop)
    h = hypergradient(
        outer, noisy, solver=solver, inverse_hvp=Neumann(3, step_size=1.0), throw="ignore"
    )
    unrolled = unrolled_value_and_grad(outer, noisy, solver=solver)
    keys = [getkey(), getkey()]
    values = [h(PSI, START, key=key).value for key in keys]
    assert abs(values[0] - values[1]) > 1e-3
    for key, value in zip(keys, values, strict=True):
        np.testing.assert_allclose(unrolled(PSI, START, key=key)[0], value, rtol=1e-5)


def test_the_number_of_steps_does_not_change_the_first_ones(getkey):
    key, thetas = getkey(), []

    for steps in (3, 6):
        _, record = GradientDescent(optax.sgd(0.5), steps)(
            lambda t, *, key: noisy(t, PSI, key=key), START, key
        )
        thetas.append(record.losses[:3])
    np.testing.assert_allclose(*thetas, rtol=1e-6)


def draws(run):
    """Every key that the loss was given during a run, as often as it was."""
    seen = []

    def inner(theta, psi, *, key):
        jax.debug.callback(lambda k: seen.append(tuple(np.ravel(k))), jax.random.key_data(key))
        return noisy(theta, psi, key=key)

    out = run(inner)
    jax.block_until_ready(out)
    jax.effects_barrier()
    return out, seen


@pytest.mark.parametrize("kind", ["descent", "proximal gradient"])
def test_no_two_uses_share_a_draw(kind, getkey):
    """Steps, products, the record and the mixed derivative; nor do two keys."""
    solver = GradientDescent(optax.sgd(0.5), 5)
    if kind == "proximal gradient":
        solver = ProximalGradient(lambda t, p, s: t, 0.5, max_steps=5, tol=1e-9)
    inverse = SGD(optax.sgd(0.5), 7)
    key, other = getkey(), getkey()

    def run(inner, key):
        compute = hypergradient(outer, inner, solver=solver, inverse_hvp=inverse, throw="ignore")
        h = compute(PSI, START, key=key)
        return h.value, h.grad

    one, first = draws(lambda inner: run(inner, key))
    again, _ = draws(lambda inner: run(inner, key))
    _, second = draws(lambda inner: run(inner, other))
    assert len(set(first)) >= 5 + 7 + 2
    assert not set(first) & set(second)
    np.testing.assert_array_equal(one[1], again[1])
    assert one[0] == again[0]


def test_compiled_calls_see_the_same(getkey):
    solver = GradientDescent(optax.sgd(0.5), 4)
    key = getkey()
    compute = hypergradient(
        outer, noisy, solver=solver, inverse_hvp=Neumann(3, step_size=1.0), throw="ignore"
    )
    fit = argmin(noisy, solver=solver)
    for run in (lambda k: fit(PSI, START, key=k), lambda k: compute(PSI, START, key=k).theta):
        np.testing.assert_array_equal(run(key), run(key))
        np.testing.assert_allclose(jax.jit(run)(key), run(key), rtol=1e-5)
