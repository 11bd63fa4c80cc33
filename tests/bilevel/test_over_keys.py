"""Means over keys and their standard errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel import Result, hypergradient, implicit_grad, over_keys, subsample_backward
from bilevel.inverse_hvp import SGD
from bilevel.solvers import GradientDescent


def test_mean_and_error_are_numpys(x64):
    def function(x, *, key):
        return {"a": x * jax.random.normal(key, (3,)), "n": jnp.asarray(7)}

    key = jax.random.key(0)
    found = over_keys(function, 6)(jnp.asarray(1e3), key=key)
    each = np.stack([function(1e3, key=one)["a"] for one in jax.random.split(key, 6)])
    np.testing.assert_allclose(found.mean["a"], each.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.standard_error["a"], each.std(0, ddof=1) / 6**0.5, rtol=1e-12)
    assert int(found.mean["n"]) == 7 and found.standard_error["n"] is None
    jitted = jax.jit(lambda key: over_keys(function, 6)(jnp.asarray(1e3), key=key).mean)(key)
    np.testing.assert_allclose(jitted["a"], each.mean(0), rtol=1e-12)


def test_a_stochastic_hypergradient_is_within_its_error(x64):
    """Mini-batches of rows; what the mean is off by is a few standard errors."""
    keys = jax.random.split(jax.random.key(1), 3)
    x, y = jax.random.normal(keys[0], (64, 3)), jax.random.normal(keys[1], (64,))

    def loss(theta, psi, rows):
        return jnp.mean((x[rows] @ theta - y[rows]) ** 2) + jnp.exp(psi) * jnp.sum(theta**2)

    def inner(theta, psi, *, key):
        return loss(theta, psi, jax.random.choice(key, 64, (16,), replace=False))

    def outer(theta, psi):
        return jnp.sum(theta**2)

    noisy = implicit_grad(
        outer,
        inner,
        solver=GradientDescent(optax.sgd(0.05), steps=60),
        inverse_hvp=SGD(optax.sgd(0.05), steps=60),
        throw="ignore",
    )
    psi, theta0 = jnp.asarray(0.0), jnp.zeros(3)
    found = over_keys(noisy, 24)(psi, theta0, key=jax.random.key(2))
    other = over_keys(noisy, 24)(psi, theta0, key=jax.random.key(3))
    both = float(found.standard_error**2 + other.standard_error**2) ** 0.5
    assert 0 < abs(float(found.mean - other.mean)) < 4 * both
    assert 0 < float(found.relative_error) < 0.3
    assert f"{float(found.relative_error):.1e}" in str(found)


def test_of_a_record_the_worst_result_is_kept():
    """One key of four makes the inner solver diverge."""
    bad = jax.random.split(jax.random.key(3), 4)[2]

    def inner(theta, psi, *, key):
        return jnp.sum((theta - psi) ** 2)

    def run(psi, *, key):
        rate = jnp.where(jnp.all(jax.random.key_data(key) == jax.random.key_data(bad)), 5.0, 0.5)
        solver = GradientDescent(optax.sgd(1.0), 200, scale=rate)
        compute = hypergradient(
            lambda theta, psi: jnp.sum(theta), inner, solver=solver, throw="ignore"
        )
        return compute(psi, jnp.zeros(2), key=key)

    found = over_keys(run, 4)(jnp.ones(2), key=jax.random.key(3))
    assert found.mean.inner.result == Result.nonfinite


def test_a_subsampled_backward_pass_is_unbiased(x64):
    keys = jax.random.split(jax.random.key(4), 2)
    x, params = jax.random.normal(keys[0], (40, 3)), jnp.asarray([0.3, -0.2, 0.5])

    def rows(params, x):
        return jnp.tanh(x @ params)

    part = subsample_backward(rows, 10)

    def gradient(params, *, key):
        return jax.grad(lambda params: jnp.sum(part(params, x, key=key) ** 2))(params)

    found = over_keys(gradient, 200)(params, key=keys[1])
    right = jax.grad(lambda params: jnp.sum(rows(params, x) ** 2))(params)
    assert np.all(np.abs(found.mean - right) < 4 * found.standard_error)


@pytest.mark.parametrize(("samples", "key", "words"), [
    (1, jax.random.key(0), "samples=1 has no spread"),
    (3, None, "key=None has nothing to average over"),
])  # fmt: skip
def test_mistakes(samples, key, words, unchecked):
    with pytest.raises(ValueError, match=words):
        over_keys(lambda key: jnp.ones(2), samples)(key=key)


@pytest.mark.parametrize(
    "settings, key, words",
    [
        ({"samples": 2.5}, None, "samples=2.5 is no whole number"),
        ({"samples": 2}, 0, "key=0 is no key"),
        ({"samples": 2}, None, "key=None has nothing to average over"),
    ],
)
def test_mistakes_of_over_keys(settings, key, words, unchecked):
    with pytest.raises(ValueError, match=words):
        over_keys(lambda x, key: x, **settings)(1.0, **({} if key is None else {"key": key}))
