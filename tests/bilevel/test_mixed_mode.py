"""Unrolling forward over reverse: the same numbers as backpropagation, less memory."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel import unrolled_grad
from bilevel._mixed_mode import MixedMode, in_mixed_mode
from bilevel.solvers import GradientDescent

STEPS = 5


@pytest.fixture
def data():
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.normal(keys[0], (12, 4)), jax.random.normal(keys[1], (12,))


def model():
    return {"w": jnp.full((4, 3), 0.1), "b": jnp.linspace(0.2, 0.4, 3), "seen": jnp.asarray(3)}


def predict(theta, x):
    return jnp.tanh(x @ theta["w"] + theta["b"][None, :]).sum(1) * theta["seen"].astype(x.dtype)


def inner(theta, psi, x, y, key=None):
    noise = 0.0 if key is None else 0.1 * jax.random.normal(key, y.shape)
    fit = jnp.mean(jnp.exp(psi["weights"]) * (predict(theta, x) - y - noise) ** 2)
    return fit + jnp.exp(psi["penalty"]) * jnp.sum(theta["w"] ** 2)


def outer(theta, psi, x, y):
    return jnp.mean((predict(theta, x) - y) ** 2) + 0.1 * psi["penalty"] ** 2


def start():
    return {"weights": jnp.linspace(-1, 1, 12), "penalty": jnp.asarray(-2.0)}


def by_hand(transformation, x, y, key=None):
    """The same steps, backpropagated through as they are."""

    def of(psi):
        theta0 = model()
        theta, rest = eqx.partition(theta0, eqx.is_inexact_array)
        state = transformation.init(theta)
        solver_key = None if key is None else jax.random.split(key, 4)[0]
        for count in range(STEPS):
            now = None if key is None else jax.random.fold_in(solver_key, count)

            def loss(theta, now=now):
                return inner(eqx.combine(theta, rest), psi, x, y, key=now)

            value, grad = jax.value_and_grad(loss)(theta)
            extra = {"value": value, "grad": grad, "value_fn": loss}
            update = optax.with_extra_args_support(transformation).update
            change, state = update(grad, state, theta, **extra)
            theta = optax.apply_updates(theta, change)
        return outer(eqx.combine(theta, rest), psi, x, y)

    with jax.numpy_dtype_promotion("standard"):
        return jax.grad(of)(start())


@pytest.mark.parametrize(
    ("transformation", "noisy"),
    [
        (optax.adam(0.05, eps_root=1e-8), False),
        (optax.sgd(0.05, momentum=0.9), True),
        (optax.chain(optax.sgd(0.05), optax.contrib.reduce_on_plateau()), False),
    ],
)
@pytest.mark.parametrize("remat", [None, 2])
def test_it_equals_backpropagation(x64, data, transformation, noisy, remat):
    data = jax.tree.map(lambda leaf: leaf.astype(float), data)
    key = jax.random.key(7) if noisy else None
    compute = unrolled_grad(
        outer, inner, solver=GradientDescent(transformation, STEPS), remat=remat
    )
    found = compute(start(), model(), outer_args=data, inner_args=data, key=key)
    expected = by_hand(transformation, *data, key)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-13)


def test_it_can_be_differentiated_and_mapped(x64, data):
    data = jax.tree.map(lambda leaf: leaf.astype(float), data)
    solver = GradientDescent(optax.sgd(0.05), STEPS)
    compute = unrolled_grad(outer, inner, solver=solver, throw="ignore")

    def gradient(penalty):
        psi = {"weights": jnp.linspace(-1, 1, 12), "penalty": penalty}
        return compute(psi, model(), outer_args=data, inner_args=data)["penalty"]

    at, step = jnp.asarray(-2.0), 1e-4
    expected = (gradient(at + step) - gradient(at - step)) / (2 * step)
    for derive in (jax.jacfwd, jax.grad):
        np.testing.assert_allclose(derive(gradient)(at), expected, rtol=1e-6)
    several = jnp.linspace(-3, -1, 3)
    np.testing.assert_allclose(
        jax.vmap(gradient)(several), jnp.stack([gradient(one) for one in several]), rtol=1e-10
    )


def test_what_a_loss_closes_over_is_differentiated(x64, data):
    x, y = jax.tree.map(lambda leaf: leaf.astype(float), data)
    solver = GradientDescent(optax.sgd(0.05), STEPS)

    def total(shift):
        def shifted(theta, psi):
            return inner(theta, psi, x, y + shift)

        compute = unrolled_grad(
            lambda theta, psi: outer(theta, psi, x, y), shifted, solver=solver, throw="ignore"
        )
        return jnp.sum(compute(start(), model())["weights"] ** 2)

    at, step = jnp.asarray(0.3), 1e-5
    expected = (total(at + step) - total(at - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(total)(at), expected, rtol=1e-6)


def test_a_custom_vjp_inside_is_backpropagated_through(x64, data):
    data = jax.tree.map(lambda leaf: leaf.astype(float), data)

    @jax.custom_vjp
    def square(a):
        return a**2

    square.defvjp(lambda a: (a**2, a), lambda a, u: (2 * a * u,))

    def with_rule(theta, psi, x, y):
        fit = jnp.mean(jnp.exp(psi["weights"]) * square(predict(theta, x) - y))
        return fit + jnp.exp(psi["penalty"]) * jnp.sum(theta["w"] ** 2)

    theta = eqx.filter(model(), eqx.is_inexact_array)
    plain = eqx.combine(theta, {"w": None, "b": None, "seen": jnp.asarray(3)})
    assert isinstance(in_mixed_mode(lambda t: jnp.sum(t["w"]), theta, None), MixedMode)
    loss = lambda t: with_rule(eqx.combine(t, plain), start(), *data)  # noqa: E731
    assert in_mixed_mode(loss, theta, None) is loss
    solver = GradientDescent(optax.sgd(0.05), STEPS)
    found, expected = (
        unrolled_grad(outer, one, solver=solver)(start(), model(), outer_args=data, inner_args=data)
        for one in (with_rule, inner)
    )
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9)


def test_what_is_kept_of_a_step_is_an_iterate(data):
    """Not the activations of 400 rows in six layers: by the compiled program."""
    network = eqx.nn.MLP(8, 1, 32, 5, key=jax.random.key(0))
    x, y = jnp.ones((400, 8)), jnp.ones((400,))

    def loss(network, psi, x, y):
        return jnp.mean(jnp.exp(psi) * (jax.vmap(network)(x)[:, 0] - y) ** 2)

    def memory(steps, rows):
        compute = unrolled_grad(
            loss, loss, solver=GradientDescent(optax.sgd(0.1), steps, loop="loop"), throw="ignore"
        )
        args = (x[:rows], y[:rows])
        run = jax.jit(lambda psi: compute(psi, network, outer_args=args, inner_args=args))
        return run.lower(jnp.zeros(rows)).compile().memory_analysis().temp_size_in_bytes

    iterate = 4 * sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(network, eqx.is_array)))
    growth = (memory(22, 400) - memory(2, 400)) / 20
    activations = 4 * 400 * 32 * 5
    assert growth < 2.5 * iterate < 0.25 * activations
