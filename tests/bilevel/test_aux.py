"""What an inner loss returns beside its value, keyword arguments, and argmin's record."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel import (
    Result,
    argmin,
    check_hypergradient,
    hypergradient,
    implicit_grad,
    implicit_value_and_grad,
)
from bilevel.inverse_hvp import CG, Dense
from bilevel.solvers import LBFGS, GradientDescent, Newton, ProximalGradient


def inner(theta, psi):
    return jnp.sum((theta - psi) ** 2), {"mean": jnp.mean(theta), "count": theta.size}


def outer(theta, psi):
    return jnp.sum(theta**2)


PSI, START = jnp.array([1.0, 3.0]), jnp.zeros(2)
SOLVERS = {
    "Newton": Newton(),
    "LBFGS": LBFGS(),
    "descent": GradientDescent(optax.sgd(0.3), 40),
    "proximal gradient": ProximalGradient(lambda t, p, s: t, 0.3),
    "a callable": lambda loss, t: t - 0.5 * jax.grad(loss)(t),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_aux_of_the_inner_loss_is_that_at_the_solution(name):
    settings = {"solver": SOLVERS[name], "inverse_hvp": Dense(), "inner_has_aux": True}
    h = hypergradient(outer, inner, **settings)(PSI, START)
    np.testing.assert_allclose(h.grad, 2 * PSI, rtol=1e-4)
    np.testing.assert_allclose(h.inner.aux["mean"], 2, rtol=1e-4)
    assert h.inner.aux["count"] == 2 and h.inner.losses[-1] < 1e-6


def test_it_reaches_argmins_record_with_everything_else():
    fit = argmin(inner, solver=Newton(Dense()), inner_has_aux=True, with_record=True)
    theta, record = fit(PSI, START)
    np.testing.assert_allclose(theta, PSI, rtol=1e-5)
    assert record.steps == 1 and record.result == Result.successful and record.distance < 1e-3
    np.testing.assert_allclose(record.losses, [10, 0], atol=1e-6)
    np.testing.assert_allclose(record.aux["mean"], 2, rtol=1e-5)


def test_a_record_has_no_derivative():
    fit = argmin(inner, solver=Newton(Dense()), inner_has_aux=True, with_record=True)

    def value(psi):
        theta, record = fit(psi, START)
        return jnp.sum(theta**2) + record.losses[0] + record.aux["mean"], record

    grad, record = jax.grad(value, has_aux=True)(PSI)
    np.testing.assert_allclose(grad, 2 * PSI, rtol=1e-5)
    np.testing.assert_allclose(record.aux["mean"], 2, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.grad(value, has_aux=True))(PSI)[0], grad, rtol=1e-5)


def test_both_kinds_of_aux_at_once():
    compute = implicit_value_and_grad(
        lambda t, p: (outer(t, p), "outer's"), inner, solver=Newton(),
        has_aux=True, inner_has_aux=True,
    )  # fmt: skip
    (value, aux), grad = compute(PSI, START)
    assert aux == "outer's" and abs(value - 10) < 1e-4
    np.testing.assert_allclose(grad, 2 * PSI, rtol=1e-5)
    check = check_hypergradient(outer, inner, solver=Newton(), inner_has_aux=True, directions=1)
    assert check(PSI, START).passed


def test_statistics_of_a_batch():
    """What it is for: the running mean of a normalisation, out of the solve at theta*."""
    x = jnp.linspace(0.0, 1.0, 8)

    def fit(theta, psi, x, running):
        mean = jnp.mean(theta * x)
        now = 0.9 * running + 0.1 * jax.lax.stop_gradient(mean)
        return jnp.mean((theta * x - mean - psi * x) ** 2) + 0.1 * theta**2, now

    h = hypergradient(lambda t, p: t**2, fit, solver=LBFGS(), inner_has_aux=True)(
        jnp.asarray(2.0), jnp.asarray(0.0), inner_args=(x, jnp.asarray(1.0))
    )
    np.testing.assert_allclose(h.inner.aux, 0.9 + 0.1 * h.theta * jnp.mean(x), rtol=1e-5)


@pytest.mark.parametrize("returned", [lambda t: t, lambda t: (t,), lambda t: (t, 1, 2)])
def test_aux_that_is_not_there(returned):
    with pytest.raises(ValueError, match=r"inner must return `\(scalar, aux\)`"):
        implicit_grad(
            outer, lambda t, p: returned(jnp.sum((t - p) ** 2)), solver=Newton(),
            inner_has_aux=True,
        )(PSI, START)  # fmt: skip


class TestKeywords:
    """`argmin` passes them on, and derivatives reach them."""

    def inner(self, theta, psi, scale, *, shift, kind="square", key=None):
        power = {"square": 2, "fourth": 4}[kind]
        noise = 0.0 if key is None else jax.random.normal(key, (2,))
        error = theta - scale * psi - shift - noise
        return jnp.sum(error**power) + (jnp.sum(error**2) if power == 4 else 0.0)

    def test_values_and_derivatives(self, x64):
        for mode in (False, True):
            fit = argmin(self.inner, solver=Newton(CG()), forward_mode=mode)

            def value(scale, shift, fit=fit):
                psi = jnp.array([1.0, 3.0])
                return jnp.sum(fit(psi, jnp.zeros(2), scale, shift=shift) ** 2)

            at = (jnp.asarray(2.0), jnp.asarray(0.5))
            theta = np.array([2.5, 6.5])
            np.testing.assert_allclose(value(*at), np.sum(theta**2), rtol=1e-8)
            grads = jax.grad(value, argnums=(0, 1))(*at)
            np.testing.assert_allclose(grads, [2 * theta @ [1, 3], 2 * theta.sum()], rtol=1e-8)
        forward = jax.jacfwd(value, argnums=1)(*at)
        np.testing.assert_allclose(forward, grads[1], rtol=1e-8)

    def test_what_is_no_array(self):
        fit = argmin(self.inner, solver=LBFGS())
        theta = fit(PSI, START, 1.0, shift=0.0, kind="fourth")
        np.testing.assert_allclose(theta, PSI, rtol=1e-3)

    def test_beside_a_key(self):
        solver = GradientDescent(optax.sgd(0.5), 1)
        fit = argmin(self.inner, solver=solver, with_record=True)
        key = jax.random.key(0)
        one, other = (
            fit(PSI, START, 1.0, shift=jnp.asarray(0.0), key=k)[0] for k in (key, jax.random.key(1))
        )
        assert not jnp.allclose(one, other)
        np.testing.assert_array_equal(one, fit(PSI, START, 1.0, shift=jnp.asarray(0.0), key=key)[0])
