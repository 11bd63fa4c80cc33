"""A model without second derivatives: exact in value, gradient and mixed derivative."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from bilevel import Result, argmin, gauss_newton, hypergradient, minimize
from bilevel.inverse_hvp import CG, Dense
from bilevel.solvers import LBFGS, NewtonCG


def parts():
    keys = jax.random.split(jax.random.key(0), 3)
    theta = eqx.nn.MLP(3, 2, 4, 1, activation=jnp.tanh, key=keys[0])
    theta = jax.tree.map(lambda x: x.astype(float) if eqx.is_inexact_array(x) else x, theta)
    x, y = jax.random.normal(keys[1], (10, 3)), jax.nn.softmax(jax.random.normal(keys[2], (10, 2)))
    return theta, x, y


def forward(model, psi, x):
    return jax.vmap(model)(x * jnp.broadcast_to(psi, x.shape))


def cross_entropy(logits, y):
    return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(logits), axis=1))


def test_the_hessian_is_the_gauss_newton_matrix_and_the_rest_exact(x64):
    model, x, y = parts()
    params, static = eqx.partition(model, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(params)
    psi = jnp.asarray([0.5, 1.0, 2.0])

    def outputs(flat, psi):
        return forward(eqx.combine(unravel(flat), static), psi, x)

    def loss(flat, psi, model=forward):
        z = model(eqx.combine(unravel(flat), static), psi, x)
        return cross_entropy(z, y) + 0.1 * jnp.sum(flat**4)

    def curved(flat, psi):
        return loss(flat, psi, gauss_newton(forward))

    jacobian = jax.jacobian(outputs)(flat, psi).reshape(20, -1)
    of_outputs = jax.hessian(lambda z: cross_entropy(z.reshape(10, 2), y))(
        outputs(flat, psi).reshape(-1)
    )
    right = jacobian.T @ of_outputs @ jacobian + jnp.diag(1.2 * flat**2)
    np.testing.assert_allclose(curved(flat, psi), loss(flat, psi), rtol=1e-14)
    np.testing.assert_allclose(jax.grad(curved)(flat, psi), jax.grad(loss)(flat, psi), atol=1e-14)
    np.testing.assert_allclose(jax.hessian(curved)(flat, psi), right, atol=1e-12)
    assert np.abs(jax.hessian(loss)(flat, psi) - right).max() > 1e-3
    for first, second in ((0, 1), (1, 0)):
        for outer in (jax.jacfwd, jax.jacrev):
            mixed = outer(jax.grad(curved, first), second)(flat, psi)
            exact = outer(jax.grad(loss, first), second)(flat, psi)
            np.testing.assert_allclose(mixed, exact, atol=1e-12)
    np.testing.assert_allclose(
        jax.hessian(curved, 1)(flat, psi), jax.hessian(loss, 1)(flat, psi), atol=1e-12
    )


def test_influence_where_the_hessian_is_indefinite(x64):
    """Conjugate gradients refuse the Hessian, and solve with this."""
    model, x, y = parts()

    def inner(theta, psi, model=forward):
        weights = eqx.filter(theta, eqx.is_inexact_array)
        decay = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(weights))
        return cross_entropy(model(theta, psi, x), y) + 1e-3 * decay

    def outer(theta, psi):
        return cross_entropy(forward(theta, jnp.ones(3), x[:3]), y[:3])

    def adjoint(inner):
        compute = hypergradient(
            outer, inner, solver=lambda loss, theta: theta, inverse_hvp=CG(), throw="ignore"
        )
        return compute(jnp.ones(3), model).adjoint.result

    assert adjoint(inner) == Result.indefinite
    found = adjoint(lambda theta, psi: inner(theta, psi, gauss_newton(forward)))
    assert found == Result.successful


def test_exact_where_the_outputs_fit(x64):
    """With l' = 0 the hypergradient is that of the Hessian; under jit, and with closed-over psi."""
    x = jnp.linspace(0.1, 1.0, 5)

    def inner(theta, psi, model):
        return jnp.sum((model(theta, x) - jnp.sin(psi * x)) ** 2) / 2

    def outer(theta, psi):
        return theta**3

    def gradient(psi, model):
        at = argmin(lambda theta, p: inner(theta, p, model), solver=NewtonCG())
        return outer(at(psi, jnp.asarray(0.6)), psi)

    plain = lambda theta, x: jnp.sin(theta * x)  # noqa: E731
    psi = jnp.asarray(0.7)
    for model in (plain, gauss_newton(plain)):
        found = jax.jit(jax.grad(lambda psi, model=model: gradient(psi, model)))(psi)
        np.testing.assert_allclose(found, 3 * psi**2, rtol=1e-6)

    def closing(psi):
        scaled = gauss_newton(lambda theta, x: jnp.sin(theta * x) * psi)
        at = argmin(
            lambda theta, p: jnp.sum((scaled(theta, x) - jnp.sin(0.7 * x) * p) ** 2),
            solver=NewtonCG(),
        )
        return at(psi, jnp.asarray(0.8))

    # theta* = 0.7 wherever psi is
    np.testing.assert_allclose(jax.grad(closing)(jnp.asarray(1.3)), 0, atol=1e-8)


def test_in_minimize_and_under_vmap():
    model, x, y = (part for part in parts())
    half = jax.tree.map(lambda a: a.astype("float32") if eqx.is_inexact_array(a) else a, model)
    x, y = x.astype("float32"), y.astype("float32")
    predict = gauss_newton(forward)

    def inner(theta, psi):
        decay = sum(jnp.sum(w**2) for w in jax.tree.leaves(eqx.filter(theta, eqx.is_array)))
        return cross_entropy(predict(theta, jnp.ones(3), x[:6]), y[:6]) + jnp.exp(psi) * decay

    def outer(theta, psi):
        return cross_entropy(forward(theta, jnp.ones(3), x[6:]), y[6:])

    found = minimize(outer, inner, jnp.asarray(-1.0), half, solver=LBFGS(), throw="ignore")
    assert found.values[-1] <= found.values[0]
    batch = jnp.ones((2, 1, 3))
    out = jax.vmap(lambda x: predict(half, jnp.ones(3), x))(batch)
    np.testing.assert_allclose(out, jax.vmap(lambda x: forward(half, jnp.ones(3), x))(batch))


def test_outputs_that_are_no_numbers_and_mistakes(unchecked):
    counted = gauss_newton(lambda theta, n: (theta * 2, n + 1))
    value, count = counted(jnp.asarray(1.0), jnp.asarray(3))
    assert float(value) == 2 and int(count) == 4
    slope = jax.grad(lambda theta: counted(theta, jnp.asarray(3))[0])(jnp.asarray(1.0))
    assert float(slope) == 2
    with pytest.raises(ValueError, match="model=3 is not a function"):
        gauss_newton(3)


def test_a_pseudo_inverse_of_more_weights_than_rows(x64):
    """Its hypergradient is that of the limit of a vanishing penalty."""
    keys = jax.random.split(jax.random.key(1), 3)
    x, y = jax.random.normal(keys[0], (4, 7)), jax.random.normal(keys[1], (4,))
    weight = x.T @ jax.random.normal(keys[2], (4,))

    def inner(theta, psi):
        return jnp.sum((x @ theta - y * psi) ** 2)

    def outer(theta, psi):
        return jnp.sin(weight @ theta)

    def shortest(loss, theta0):
        return jnp.linalg.pinv(x) @ (y * psi)

    psi = jnp.asarray([0.5, 1.0, 1.5, 2.0])
    compute = hypergradient(
        outer, inner, solver=shortest, inverse_hvp=Dense(pseudo_inverse=True), throw="ignore"
    )
    h = compute(psi, jnp.zeros(7))
    right = jax.grad(lambda psi: jnp.sin(weight @ (jnp.linalg.pinv(x) @ (y * psi))))(psi)
    np.testing.assert_allclose(h.grad, right, rtol=1e-8)
    assert h.adjoint.result == Result.successful

    def across(theta, psi):  # along what the inner loss leaves open, too
        return jnp.sum(theta)

    open_too = hypergradient(
        across, inner, solver=shortest, inverse_hvp=Dense(pseudo_inverse=True), throw="ignore"
    )(psi, jnp.zeros(7))
    assert open_too.adjoint.result == Result.approximate
    right = jax.grad(lambda psi: jnp.sum(jnp.linalg.pinv(x) @ (y * psi)))(psi)
    np.testing.assert_allclose(open_too.grad, right, rtol=1e-8)


def test_singular_values_are_cut_where_asked(x64):
    matrix = jnp.diag(jnp.asarray([1.0, 1e-3]))
    solve = Dense(pseudo_inverse=True, rtol=1e-2)
    found = solve(lambda v: matrix @ v, jnp.ones(2))
    np.testing.assert_allclose(found.v, [1, 0])
    assert found.result == Result.approximate
    exact = Dense(pseudo_inverse=True)(lambda v: matrix @ v, jnp.ones(2))
    np.testing.assert_allclose(exact.v, [1, 1e3])
    assert exact.result == Result.successful
    with pytest.raises(ValueError, match="rtol=0.01 cuts singular values"):
        Dense(rtol=1e-2)
