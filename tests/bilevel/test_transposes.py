"""Stored transposes: nothing changes but the program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel import _transposes, hypergradient
from bilevel._transposes import store_transposes
from bilevel.solvers import Newton


@pytest.fixture(autouse=True)
def all_sizes(monkeypatch):
    monkeypatch.setattr(_transposes, "SMALLEST", 1)


RNG = np.random.default_rng(0)
X, W = RNG.normal(size=(7, 5)), RNG.normal(size=(5, 3))


def count_transposed(linear, v):
    """Products that sum over the rows of a matrix of 7 rows."""
    text = str(jax.make_jaxpr(linear)(v))
    return text.count("dimension_numbers=(([0], [0])")


def test_the_same_values_and_no_transposed_product(x64):
    x, w = jnp.asarray(X), jnp.asarray(W)
    loss = jax.jit(lambda w: jnp.sum(jnp.tanh(x @ w) ** 2))
    linear = jax.linearize(lambda w: {"a": jax.grad(loss)(w)}, w)[1]
    v = jnp.asarray(RNG.normal(size=W.shape))
    stored = store_transposes(linear, v)
    assert count_transposed(linear, v) >= 1 and count_transposed(stored, v) == 0
    np.testing.assert_allclose(stored(v)["a"], linear(v)["a"], rtol=1e-13)
    transposed = jax.linear_transpose(stored, v)({"a": v})[0]
    np.testing.assert_allclose(transposed, jax.linear_transpose(linear, v)({"a": v})[0], rtol=1e-12)


def test_what_cannot_be_taken_apart_is_left_alone(x64):
    @jax.custom_jvp
    def own(v):
        return jnp.asarray(X).T @ v

    own.defjvp(lambda p, t: (own(*p), own(*t)))
    for linear in (own, lambda v: 2 * v, lambda v: v):
        assert store_transposes(linear, jnp.ones((7, 2))) is linear


def test_on_accelerators_nothing_is_stored(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    linear = lambda v: jnp.asarray(X, jnp.float32).T @ v  # noqa: E731
    assert store_transposes(linear, jnp.ones((7, 2))) is linear


def test_hypergradients_and_their_derivatives_are_the_same(x64, monkeypatch):
    x, y = jnp.asarray(X), jnp.asarray(RNG.normal(size=(7, 3)))

    def inner(theta, psi):
        return 0.5 * jnp.mean((x @ theta - y) ** 2) + 0.5 * jnp.exp(psi) * jnp.sum(theta**2)

    def gradient(psi):
        compute = hypergradient(lambda t, p: jnp.sum(t**4), inner, solver=Newton(), throw="ignore")
        return compute(psi, jnp.asarray(W)).grad

    found = [jax.jit(f)(0.3) for f in (gradient, jax.jacfwd(gradient))]
    found.append(jax.jit(jax.vmap(gradient))(jnp.array([0.3, 0.4])))
    monkeypatch.setattr(_transposes, "SMALLEST", 10**9)
    jax.clear_caches()
    plain = [jax.jit(f)(0.3) for f in (gradient, jax.jacfwd(gradient))]
    plain.append(jax.jit(jax.vmap(gradient))(jnp.array([0.3, 0.4])))
    for a, b in zip(found, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8)
