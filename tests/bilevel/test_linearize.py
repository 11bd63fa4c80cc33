"""The first-order Taylor model against differences of the model itself."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel import Linearized, hypergradient, linearize, reparameterize_last_layer
from bilevel.inverse_hvp import CG
from bilevel.solvers import Newton


@pytest.fixture
def model(x64):
    """Biases are None: the tangent has to follow."""
    return eqx.nn.MLP(3, 2, 5, 2, activation=jnp.tanh, use_bias=False, key=jax.random.key(0))


@pytest.fixture
def x(x64):
    return jnp.asarray(np.random.default_rng(0).normal(size=3))


def direction_of(linear, seed=1):
    leaves, structure = jax.tree.flatten(linear.tangent)
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(structure, [jnp.asarray(rng.normal(size=t.shape)) for t in leaves])


def test_equals_central_differences(model, x):
    linear = linearize(model)
    direction = direction_of(linear)

    def moved(step):
        return eqx.apply_updates(model, jax.tree.map(lambda d: step * d, direction))(x)

    expected = (moved(1e-5) - moved(-1e-5)) / 2e-5
    np.testing.assert_allclose(linear.at(direction)(x), expected, rtol=1e-7, atol=1e-9)
    not_centred = linearize(model, centred=False).at(direction)
    np.testing.assert_allclose(not_centred(x), model(x) + expected, rtol=1e-7, atol=1e-9)


def test_starts_at_the_model(model, x):
    np.testing.assert_array_equal(linearize(model)(x), jnp.zeros(2))
    np.testing.assert_array_equal(linearize(model, centred=False)(x), model(x))


def test_it_is_linear_in_the_tangent(model, x):
    linear = linearize(model)
    one, two = direction_of(linear, 1), direction_of(linear, 2)
    both = jax.tree.map(lambda a, b: 2 * a - 3 * b, one, two)
    expected = 2 * linear.at(one)(x) - 3 * linear.at(two)(x)
    np.testing.assert_allclose(linear.at(both)(x), expected, rtol=1e-12)


def test_the_base_is_frozen_and_the_tangent_is_not(model, x):
    linear = linearize(model, centred=False)
    linear = linear.at(direction_of(linear))
    grad = eqx.filter_grad(lambda linear: jnp.sum(linear(x) ** 2))(linear)
    assert all(jnp.all(leaf == 0) for leaf in jax.tree.leaves(grad.base))
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(grad.tangent))
    # Also where the base is differentiated from outside, as in a meta-gradient.
    tangent = direction_of(linear)
    outside = eqx.filter_grad(lambda m: jnp.sum(linearize(m).at(tangent)(x) ** 2))(model)
    assert all(jnp.all(leaf == 0) for leaf in jax.tree.leaves(outside))


def test_gradients_reach_the_inputs(model, x):
    linear = linearize(model, centred=False)
    linear = linear.at(direction_of(linear))
    grad = jax.grad(lambda x: jnp.sum(linear(x)))(x)
    numeric = [
        (jnp.sum(linear(x.at[i].add(1e-6))) - jnp.sum(linear(x.at[i].add(-1e-6)))) / 2e-6
        for i in range(3)
    ]
    np.testing.assert_allclose(grad, numeric, rtol=1e-6)


def test_filter_spec_chooses_the_parameters(model, x):
    first = eqx.tree_at(lambda m: m.layers[0].weight, jax.tree.map(lambda _: False, model), True)
    linear = linearize(model, filter_spec=first)
    assert len(jax.tree.leaves(linear.tangent)) == 1
    direction = direction_of(linear)
    assert eqx.apply_updates(model, direction).layers[1].weight is model.layers[1].weight

    def moved(step):
        weight = model.layers[0].weight + step * direction.layers[0].weight
        return eqx.tree_at(lambda m: m.layers[0].weight, model, weight)(x)

    expected = (moved(1e-5) - moved(-1e-5)) / 2e-5
    np.testing.assert_allclose(linear.at(direction)(x), expected, rtol=1e-7, atol=1e-9)


def test_value_and_tangent_of_any_function(model, x):
    linear = linearize(model)
    direction = direction_of(linear)
    value, tangent = linear.at(direction).value_and_tangent(
        lambda m, x: {"hidden": jnp.tanh(m.layers[0](x)), "output": m(x)}, x
    )
    np.testing.assert_allclose(value["output"], model(x), rtol=1e-12)
    np.testing.assert_allclose(tangent["output"], linear.at(direction)(x), rtol=1e-12)
    slope = 1 - value["hidden"] ** 2
    expected = slope * (direction.layers[0].weight @ x)
    np.testing.assert_allclose(tangent["hidden"], expected, rtol=1e-10)


def test_jit_and_vmap(model):
    xs = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)))
    linear = linearize(model, centred=False)
    linear = linear.at(direction_of(linear))
    expected = jnp.stack([linear(x) for x in xs])
    np.testing.assert_allclose(eqx.filter_jit(lambda m: jax.vmap(m)(xs))(linear), expected)


def test_with_a_ridge_head_the_inner_problem_is_exactly_quadratic(x64):
    """Law 2: one Newton step solves it, whatever the network."""
    rng = np.random.default_rng(2)
    x, y = jnp.asarray(rng.normal(size=(8, 3))), jnp.asarray(rng.normal(size=(8, 2)))
    body = eqx.nn.MLP(3, 4, 6, 1, activation=jnp.tanh, key=jax.random.key(1))
    readout = jnp.asarray(rng.normal(size=(4, 2)))

    def last_layer(theta, psi):
        features, tangent = (
            linearize(body).at(theta).value_and_tangent(lambda m, x: jax.vmap(m)(x), x)
        )
        return features, y * psi - tangent @ readout

    def inner(theta, head, psi):
        return head.objective() + 0.25 * sum(jnp.sum(t**2) for t in jax.tree.leaves(theta))

    h = hypergradient(
        lambda theta, psi: sum(jnp.sum(jnp.sin(t)) for t in jax.tree.leaves(theta)),
        reparameterize_last_layer(inner, last_layer, 0.5),
        solver=Newton(CG(rtol=1e-14)),
        inverse_hvp=CG(rtol=1e-13),
    )(jnp.asarray(1.0), linearize(body).tangent)
    assert h.inner.gradient_norm < 1e-11
    assert h.inner.losses[1] < 0.9 * h.inner.losses[0]
    # theta* is linear in psi, so the hypergradient has a closed form.
    leaves = jax.tree.leaves(h.theta)
    expected = sum(jnp.sum(jnp.cos(t) * t) for t in leaves)
    np.testing.assert_allclose(h.grad, expected, rtol=1e-9)


def test_bad_input(x64):
    with pytest.raises(ValueError, match="model holds no floating-point array"):
        linearize({"n": jnp.arange(3)})
    linear = linearize({"w": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"at was given a tangent .*\(4,\).*must have the form"):
        linear.at({"w": jnp.ones(4)})
    assert isinstance(linear.at({"w": jnp.ones(3)}), Linearized)
