"""Operators: each is its matrix, its transpose is the matrix's, and it knows its symmetry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from bilevel import Result, hessian
from bilevel._operator import Damped, Function, Gram, Linear, Rederived, Wide, as_operator
from bilevel.inverse_hvp import CG

A = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)), jnp.float32)
THETA = (jnp.array([0.3, -0.4]), jnp.array(0.7))


def field(theta, key):
    """A function of theta whose Jacobian is not symmetric."""
    flat, unravel = ravel_pytree(theta)
    return unravel(A @ jnp.sin(flat))


def times(v):
    flat, unravel = ravel_pytree(v)
    return unravel(A @ flat)


TIMES = Linear(times, self_adjoint=False)
JACOBIAN = A * jnp.cos(ravel_pytree(THETA)[0])[None, :]
EYE = jnp.eye(3)
OPERATORS = {
    "linear": (TIMES, A, False),
    "derived anew": (Rederived(field, THETA, self_adjoint=False), JACOBIAN, False),
    "damped": (Damped(TIMES, jnp.asarray(0.5)), A + 0.5 * EYE, False),
    "gram": (Gram(TIMES), A @ A.T, True),
    "damped gram": (
        Damped(Gram(TIMES), jnp.asarray(2.0)),
        A @ A.T + 2 * EYE,
        True,
    ),
    "wide": (Wide(TIMES, (jnp.dtype("float32"),) * 2), A, False),
}


def as_matrix(operator):
    _, unravel = ravel_pytree(THETA)
    return jax.vmap(lambda v: ravel_pytree(operator(unravel(v)))[0], out_axes=1)(jnp.eye(3))


@pytest.mark.parametrize("name", OPERATORS)
def test_products_and_transposes(name):
    operator, expected, symmetric = OPERATORS[name]
    np.testing.assert_allclose(as_matrix(operator), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(as_matrix(operator.T), expected.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(as_matrix(operator.T.T), expected, rtol=1e-5, atol=1e-6)
    assert operator.symmetric is symmetric


def test_a_function_of_ones_own_is_taken_to_be_symmetric():
    operator = as_operator(times)
    assert isinstance(operator, Function)
    assert operator.symmetric and operator.T is operator
    assert as_operator(operator) is operator


def test_one_that_says_it_is_not_symmetric_is_transposed():
    """Otherwise conjugate gradients would solve another system, and call it a success."""

    class OnesOwn:
        symmetric = False

        def __init__(self, matrix):
            self.matrix = matrix

        def __call__(self, v):
            return self.matrix @ v

        @property
        def T(self):
            return OnesOwn(self.matrix.T)

    matrix = 3 * EYE + A
    found = CG()(OnesOwn(matrix), jnp.ones(3))
    assert found.result == Result.successful
    np.testing.assert_allclose(found.v, np.linalg.solve(matrix, np.ones(3)), rtol=1e-3)
    np.testing.assert_array_equal(Function(OnesOwn(matrix)).T(EYE[0]), matrix[0])


def test_a_key_reaches_the_function(getkey):
    def noisy(v, key):
        return jax.random.normal(key, v.shape)

    key = getkey()
    np.testing.assert_array_equal(Function(noisy)(jnp.ones(2), key), noisy(jnp.ones(2), key))


@pytest.mark.parametrize("rederive", [False, True])
def test_the_hessian_of_a_loss(rederive):
    def loss(theta):
        return jnp.sum(ravel_pytree(theta)[0] ** 4)

    operator = hessian(loss, THETA, rederive=rederive)
    flat = ravel_pytree(THETA)[0]
    np.testing.assert_allclose(as_matrix(operator), jnp.diag(12 * flat**2), rtol=1e-5)
    assert operator.symmetric
