"""Backpropagation through the solver against the same steps written out."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel import unrolled_grad, unrolled_value_and_grad
from bilevel.solvers import GradientDescent, Newton


def written_out(problem, steps, truncate=None):
    """Plain descent with momentum, differentiated as one function."""

    def value(psi):
        theta, momentum = problem.theta0, jax.tree.map(jnp.zeros_like, problem.theta0)
        for count in range(steps):
            frozen = truncate is not None and count < steps - truncate
            at = jax.lax.stop_gradient(psi) if frozen else psi
            gradient = jax.grad(problem.inner)(theta, at)
            momentum = jax.tree.map(lambda m, g: 0.5 * m + g, momentum, gradient)
            theta = jax.tree.map(lambda t, m: t - 0.1 * m, theta, momentum)
        return problem.outer(theta, psi)

    return value


DESCENT = optax.sgd(0.1, 0.5)


@pytest.mark.parametrize("remat", [None, 1, 4])
@pytest.mark.parametrize("truncate", [None, 3])
def test_equals_the_steps_written_out(truncate, remat, problem, close):
    settings = {"solver": GradientDescent(DESCENT, 9), "truncate": truncate, "remat": remat}
    compute = unrolled_value_and_grad(problem.outer, problem.inner, **settings)
    value, grad = compute(problem.psi, problem.theta0)
    expected = jax.jit(jax.value_and_grad(written_out(problem, 9, truncate)))(problem.psi)
    close((value, grad), expected, 1e-10)


@pytest.mark.parametrize("loop", ["unroll", "loop"])
def test_tends_to_the_implicit_gradient(loop, ridge_problem, close):
    descent = GradientDescent(optax.sgd(0.3), 300, loop=loop) if loop == "loop" else (
        GradientDescent(optax.sgd(0.5), 40, loop=loop)
    )  # fmt: skip
    grad = unrolled_grad(ridge_problem.outer, ridge_problem.inner, solver=descent)
    tolerance = 1e-8 if loop == "loop" else 1e-3
    close(grad(ridge_problem.psi, ridge_problem.theta0), ridge_problem.gradient, tolerance)


def test_a_convolution_is_unrolled():
    """On a CPU, where loops slow it down."""

    def inner(theta, psi):
        out = jax.lax.conv_general_dilated(psi, theta, (1, 1), "SAME")
        return jnp.sum((out - 1) ** 2)

    compute = unrolled_grad(
        lambda t, p: jnp.sum(t**2), inner, solver=GradientDescent(optax.sgd(1e-3), 3), remat=2
    )
    jaxpr = str(jax.make_jaxpr(compute)(jnp.ones((1, 1, 4, 4)), jnp.ones((1, 1, 3, 3))))
    assert "conv_general_dilated" in jaxpr and "scan[" not in jaxpr and "while[" not in jaxpr


def test_rematerialisation_needs_less_memory():
    weight = jnp.ones((128, 128)) / 128
    x = jnp.ones((64, 128))

    def inner(theta, psi):
        return jnp.mean(jnp.tanh(jnp.tanh(x @ theta) @ theta) * psi)

    def memory(remat):
        compute = unrolled_grad(
            lambda t, p: jnp.sum(t**2),
            inner,
            solver=GradientDescent(optax.sgd(0.1), 36),
            remat=remat,
        )
        compiled = jax.jit(compute).lower(jnp.ones((64, 128)), weight).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(6) < 0.5 * memory(None)


def test_aux_arguments_and_keys(x64, getkey):
    def inner(theta, psi, shift, *, key):
        noise = 0.1 * jax.random.normal(key, theta.shape)
        return 0.5 * jnp.sum((theta - psi - shift - noise) ** 2)

    def outer(theta, psi, scale):
        return scale * jnp.sum(theta), {"theta": theta}

    compute = unrolled_grad(outer, inner, solver=GradientDescent(optax.sgd(0.5), 30), has_aux=True)
    args = {"outer_args": (jnp.asarray(3.0),), "inner_args": (jnp.asarray(1.0),)}
    keys = [getkey() for _ in range(20)]
    grads, auxes = zip(
        *(compute(jnp.ones(2), jnp.zeros(2), key=key, **args) for key in (keys[0], *keys)),
        strict=True,
    )
    np.testing.assert_allclose(grads, 3, rtol=1e-8)  # the noise has no part in the derivative
    again, *thetas = (np.asarray(aux["theta"]) for aux in auxes)
    np.testing.assert_array_equal(again, thetas[0])
    # theta sums the noise of the steps with weights 1/2, 1/4, ...: its deviation is 0.1 / 3^0.5.
    assert 0.03 < np.std(thetas) < 0.1
    np.testing.assert_allclose(np.mean(thetas), 2, atol=0.05)


def test_modules(getkey, x64):
    psi = eqx.nn.Linear(2, 2, key=getkey())
    grad = unrolled_grad(
        lambda t, p: jnp.sum(t),
        lambda t, p: 0.5 * jnp.sum((t - p(jnp.ones(2))) ** 2),
        solver=GradientDescent(optax.sgd(1.0), 1),
    )(psi, jnp.zeros(2))
    np.testing.assert_allclose(grad.weight, 1)


@pytest.mark.parametrize(
    "settings, match",
    [
        ({"solver": Newton()}, "has no steps to differentiate: unrolling needs a GradientDescent"),
        ({"solver": GradientDescent(DESCENT, 3), "truncate": 0}, "truncate=0 leaves no step"),
        ({"solver": GradientDescent(DESCENT, 3), "remat": 0}, "remat=0 leaves no step"),
    ],
)
def test_bad_settings(settings, match, unchecked):
    with pytest.raises(ValueError, match=match):
        unrolled_grad(lambda t, p: t, lambda t, p: t, **settings)


def test_adam_at_a_dead_unit_is_said_with_its_remedy():
    def inner(theta, psi):
        return jnp.sum((theta[:2] - psi) ** 2) + jax.nn.relu(theta[2] * psi[0])

    def outer(theta, psi):
        return jnp.sum(theta**2)

    psi, theta = jnp.ones(2), jnp.asarray([0.0, 0.0, -1.0])
    with pytest.raises(RuntimeError, match=r"give it an `eps_root`"):
        unrolled_grad(outer, inner, solver=GradientDescent(optax.adam(0.1), 5))(psi, theta)
    rooted = GradientDescent(optax.adam(0.1, eps_root=1e-16), 5)
    assert np.isfinite(unrolled_grad(outer, inner, solver=rooted)(psi, theta)).all()
