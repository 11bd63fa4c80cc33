"""A window of the unrolled steps: its begin may be traced, and one program serves all."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel import unrolled_grad, unrolled_value_and_grad
from bilevel.solvers import GradientDescent

ADAM = optax.adam(0.05)
PSI, START = jnp.linspace(0.5, 1.5, 3), jnp.zeros(3)


def inner(theta, psi):
    return jnp.sum(jnp.cosh(theta - psi))


def outer(theta, psi):
    return jnp.sum(jnp.sin(theta)) + psi[0]


def windowed(start, steps=20, window=4, loss=inner, key=None, **settings):
    solver = GradientDescent(ADAM, steps)
    compute = unrolled_value_and_grad(
        outer, loss, solver=solver, window=window, start=start, **settings
    )
    return compute(PSI, START, key=key)


def truncated(steps, truncate=4, loss=inner, key=None):
    compute = unrolled_value_and_grad(
        outer, loss, solver=GradientDescent(ADAM, steps), truncate=truncate
    )
    return compute(PSI, START, key=key)


@pytest.mark.parametrize("start", [0, 7, 16])
def test_it_is_a_shorter_descent_that_is_truncated(start):
    """The outer loss is taken where the window ends."""
    value, grad = truncated(start + 4)
    found = windowed(start)
    np.testing.assert_allclose(found[0], value, rtol=1e-6)
    np.testing.assert_allclose(found[1], grad, rtol=1e-5)
    found = windowed(start, remat=2)
    np.testing.assert_allclose(found[1], grad, rtol=1e-5)


def test_without_a_start_it_is_the_last_steps():
    for found, expected in zip(windowed(None), truncated(20), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    whole = unrolled_grad(outer, inner, solver=GradientDescent(ADAM, 4))(PSI, START)
    np.testing.assert_allclose(windowed(None, steps=4, window=99)[1], whole, rtol=1e-6)


def test_one_program_serves_all_starts(compilations):
    """Called and compiled: numbers that are traced, fresh arrays, and plain integers."""
    starts = [jax.device_put(np.int32(start)) for start in (3, 0, 11, 16)]
    for run in (windowed, jax.jit(windowed)):
        jax.block_until_ready(run(starts[0]))
        before, grads = compilations(), []
        for start in starts[1:]:
            grads.append(jax.block_until_ready(run(start))[1])
        assert compilations() == before
        assert np.ptp([g[0] for g in grads]) > 1e-4  # and they are not the same


def test_many_starts_at_once():
    starts = jnp.array([0, 7, 16])
    grads = jax.vmap(lambda start: windowed(start)[1])(starts)
    for start, grad in zip(starts, grads, strict=True):
        np.testing.assert_allclose(grad, windowed(int(start))[1], rtol=1e-4)


def test_a_window_sees_the_noise_of_its_own_steps(getkey):
    def noisy(theta, psi, *, key):
        return inner(theta, psi + 0.3 * jax.random.normal(key, (3,)))

    key = getkey()
    for start in (0, 9):
        value, grad = truncated(start + 4, loss=noisy, key=key)
        found = windowed(jnp.asarray(start), loss=noisy, key=key)
        np.testing.assert_allclose(found[0], value, rtol=1e-5)
        np.testing.assert_allclose(found[1], grad, rtol=1e-4)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"start": 17}, "start=17 leaves no room for a window of 4 in steps=20: give 0 to 16"),
        ({"start": -1}, "start=-1 leaves no room"),
        ({"start": np.int32(18)}, "start=18 leaves no room"),
        ({"start": jnp.asarray(19)}, "start=19 leaves no room"),
        ({"start": 3, "window": None}, "start=3 is the beginning of a window: give window"),
        ({"start": 0, "window": 0}, "window=0 leaves no step"),
        ({"start": 0, "truncate": 3}, "truncate=3 and window=4 both say"),
    ],
)
def test_bad_windows(settings, words, unchecked):
    with pytest.raises(ValueError, match=words):
        windowed(**settings)


@pytest.mark.parametrize("start", [-1, 17, 99])
def test_a_traced_start_that_is_out_of_range_says_so(start):
    with pytest.raises(Exception, match="leaves no room for the `window`"):
        jax.block_until_ready(jax.jit(windowed)(jnp.asarray(start)))
    for first in (0, 16):
        found, wanted = jax.jit(windowed)(jnp.asarray(first)), windowed(first)
        np.testing.assert_allclose(found[1], wanted[1], rtol=1e-5)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"start": 2.5}, "start=2.5 is no step"),
        ({"start": jnp.arange(2)}, "is no step"),
        ({"start": 0, "window": 4.5}, "window=4.5 is no whole number"),
    ],
)
def test_windows_that_are_no_windows(settings, words):
    with pytest.raises(ValueError, match=words):
        windowed(**settings)
