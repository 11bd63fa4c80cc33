"""Inner losses with derivative rules of their own, whose backward pass holds such a rule again."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel import argmin, hypergradient, implicit_grad
from bilevel.inverse_hvp import CG, Dense
from bilevel.solvers import LBFGS, GradientDescent, Newton, ProximalGradient


@jax.custom_vjp
def sine(x):
    return jnp.sin(x)


sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, c: (c * sine(x + np.float32(np.pi / 2)),))


def nested(theta, psi):
    return jnp.sum((theta - psi) ** 2) - 0.5 * jnp.sum(sine(theta) * psi)


def plain(theta, psi):
    return jnp.sum((theta - psi) ** 2) - 0.5 * jnp.sum(jnp.sin(theta) * psi)


def outer(theta, psi):
    return jnp.sum(theta**2) + jnp.sum(psi)


PSI, START = jnp.array([0.3, -0.6]), jnp.zeros(2)
DESCENT = GradientDescent(optax.sgd(0.4), 100)
WAYS = {
    "descent, CG": (DESCENT, CG()),
    "LBFGS, Dense": (LBFGS(), Dense()),
    "Newton, derived anew": (Newton(CG(rederive=True), steps=6), CG(rederive=True)),
    "Newton, linearised": (Newton(Dense(), steps=6), CG()),
}


@pytest.fixture(scope="module")
def right():
    solver = Newton(Dense(), steps=6)
    return implicit_grad(outer, plain, solver=solver, inverse_hvp=Dense())(PSI, START)


@pytest.mark.parametrize("name", WAYS)
def test_hypergradients(name, right):
    solver, inverse = WAYS[name]
    h = hypergradient(outer, nested, solver=solver, inverse_hvp=inverse)(PSI, START)
    np.testing.assert_allclose(h.grad, right, rtol=1e-3)


def test_argmin(right):
    for inverse in (Dense(), CG(rederive=True)):
        fit = argmin(nested, solver=DESCENT, inverse_hvp=inverse)
        grad = jax.grad(lambda p, fit=fit: outer(fit(p, START), p))
        np.testing.assert_allclose(grad(PSI), right, rtol=1e-3)
        np.testing.assert_allclose(jax.jit(grad)(PSI), right, rtol=1e-3)


def test_in_the_outer_loss():
    """There it need not be differentiated twice."""
    compute = implicit_grad(
        lambda t, p: jnp.sum(sine(t)), lambda t, p: jnp.sum((t - p) ** 2), solver=Newton()
    )
    np.testing.assert_allclose(compute(PSI, START), jnp.cos(PSI), rtol=1e-5)


def is_told(call):
    with pytest.raises(ValueError, match="custom_vjp.*no forward mode.*custom_jvp") as raised:
        call()
    assert "\n" not in str(raised.value)


def test_where_forward_mode_cannot_be_avoided_one_sentence_says_so():
    prox = ProximalGradient(lambda t, p, s: t, 0.3)
    is_told(lambda: implicit_grad(outer, nested, solver=prox, inverse_hvp=Dense())(PSI, START))
    fit = argmin(nested, solver=DESCENT, forward_mode=True)
    is_told(lambda: jax.jacfwd(lambda p: fit(p, START))(PSI))
    is_told(lambda: jax.jvp(lambda p: fit(p, START), (PSI,), (PSI,)))
