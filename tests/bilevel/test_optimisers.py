"""optax optimisers that ask for more than a gradient: the loss, its value, a function of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel import implicit_grad, unrolled_grad
from bilevel.inverse_hvp import SGD, Dense
from bilevel.solvers import GradientDescent


def inner(theta, psi):
    return jnp.sum((theta["t"] - psi) ** 2) + jnp.sum(jnp.cosh(theta["s"] - psi))


def outer(theta, psi):
    return jnp.sum(theta["t"] ** 2) + jnp.sum(theta["s"])


PSI, START = jnp.asarray(1.0), {"t": jnp.zeros(2), "s": jnp.zeros(1)}
OPTIMISERS = {
    "lbfgs": optax.lbfgs(),
    "reduce_on_plateau": optax.chain(optax.sgd(0.3), optax.contrib.reduce_on_plateau()),
    "backtracking": optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15)),
    "zoom": optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(15)),
    "polyak_sgd": optax.polyak_sgd(max_learning_rate=0.4),
    "adam, clipped": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.3)),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_as_inner_solvers(name):
    solver = GradientDescent(OPTIMISERS[name], 60)
    compute = implicit_grad(outer, inner, solver=solver, inverse_hvp=Dense())
    np.testing.assert_allclose(compute(PSI, START), 5, rtol=1e-2)


@pytest.mark.parametrize("name", ["reduce_on_plateau", "adam, clipped"])
def test_unrolled(name):
    compute = unrolled_grad(outer, inner, solver=GradientDescent(OPTIMISERS[name], 60))
    np.testing.assert_allclose(compute(PSI, START), 5, rtol=1e-2)


def test_the_value_is_that_before_the_step():
    seen = []

    def update(updates, state, params=None, *, value, grad, value_fn, **_):
        jax.debug.callback(lambda *x: seen.append([float(v) for v in x]), value, value_fn(params))
        return jax.tree.map(lambda g: -0.25 * g, grad), state

    optimiser = optax.GradientTransformationExtraArgs(lambda params: (), update)
    GradientDescent(optimiser, 4)(lambda t: jnp.sum((t - 1) ** 2), jnp.zeros(2))
    jax.effects_barrier()
    np.testing.assert_allclose(seen, [[2 / 4**k] * 2 for k in range(4)], rtol=1e-6)


def test_a_line_search_in_the_adjoint():
    """v.Hv/2 - g.v is a loss like any other."""
    optimiser = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15))
    hessian = jnp.array([1.0, 7.0])
    adjoint = SGD(optimiser, 60)(lambda v: hessian * v, jnp.ones(2))
    np.testing.assert_allclose(adjoint.v, 1 / hessian, rtol=1e-3)
