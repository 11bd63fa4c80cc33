"""The five methods against dense algebra, finite differences and each other, in float64."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from bilevel import hypergradient
from bilevel.inverse_hvp import CG, SGD, Dense
from bilevel.solvers import GradientDescent, Newton
from bilevel_distillation import METHODS, make_method
from bilevel_distillation.networks import is_body

FIVE = ("vig", "cig", "rig", "rcig", "frepo")


def meta_gradient(method, problem, solver, inverse_hvp):
    coreset, network, images, targets = problem
    compute = hypergradient(
        method.outer, method.inner, solver=solver, inverse_hvp=inverse_hvp, has_aux=True
    )
    return compute(
        coreset,
        method.start(network),
        outer_args=(network, images, targets),
        inner_args=(network,),
    )


def rcig_by_hand(method, network, images, targets):
    """RCIG's outer loss as a function of the coreset, written with dense matrices alone.

    delta* = (I + J^T M J)^-1 J^T M y with M = (K + ridge I)^-1, all explicit.
    """
    body, rest = eqx.partition(network, is_body(network))
    flat, unravel = ravel_pytree(body)

    def outputs(vector, x):
        return eqx.combine(unravel(vector), rest)(x)

    def jacobian(x):
        return jax.jacrev(lambda vector: outputs(vector, x).ravel())(flat)

    def outer(coreset):
        x, y = coreset.support()
        ridge = method.ridge_rate * coreset.images.shape[0]
        h, j, classes = network.features(x), jacobian(x), y.shape[1]
        m = jnp.linalg.inv(h @ h.T + ridge * jnp.eye(len(x)))
        m_all = jnp.kron(m, jnp.eye(classes))
        delta = jnp.linalg.solve(jnp.eye(flat.size) + j.T @ m_all @ j, j.T @ m_all @ y.ravel())
        weight = h.T @ m @ (y - (j @ delta).reshape(y.shape))
        moved = (jacobian(images) @ delta).reshape(len(images), classes)
        predictions = moved + network.features(images) @ weight
        logits = predictions * jnp.exp(coreset.log_temperature)
        loss = jnp.mean(optax.losses.softmax_cross_entropy(logits, targets))
        ordered = jnp.sort(coreset.labels, axis=1)
        margin = jnp.minimum(ordered[:, -1] - ordered[:, -2], 0.5 / classes)
        return loss - jnp.mean(margin)

    return outer


@pytest.mark.parametrize("flip", [False, True])
def test_rcig_equals_the_dense_algebra(problem, flip, distance):
    coreset, network, images, targets = problem
    coreset = replace(coreset, flip=flip)
    problem = coreset, network, images, targets
    method = make_method("rcig")
    value, expected = jax.jit(jax.value_and_grad(rcig_by_hand(method, network, images, targets)))(
        coreset
    )
    found = meta_gradient(method, problem, Newton(CG()), CG())
    assert found.value == pytest.approx(float(value), rel=1e-9)
    for name in ("images", "labels", "log_temperature"):
        assert distance(getattr(found.grad, name), getattr(expected, name)) < 1e-6
    assert found.inner.gradient_norm < 1e-10
    # Both parts matter: neither is within a tenth of the whole.
    assert distance(found.direct.images, found.grad.images) > 0.1
    assert distance(found.implicit.images, found.grad.images) > 0.1


def test_rcig_equals_the_dense_solver(problem, distance):
    method = make_method("rcig")
    dense = meta_gradient(method, problem, Newton(Dense()), Dense())
    found = meta_gradient(method, problem, Newton(CG()), CG())
    assert distance(found.grad, dense.grad) < 1e-6


@pytest.mark.parametrize("name", ["rcig", "cig"])
def test_meta_gradient_equals_finite_differences_of_the_resolved_problem(problem, name):
    coreset, network, images, targets = problem
    method = make_method(name, ridge_rate=5e-3)
    found = meta_gradient(method, problem, Newton(CG()), CG()).grad
    flat, unravel = ravel_pytree(coreset)

    @jax.jit
    def resolved(vector):
        theta, _ = Newton(CG(rtol=1e-13, loop="loop"))(
            lambda t: method.inner(t, unravel(vector), network), method.start(network)
        )
        return method.outer(theta, unravel(vector), network, images, targets)[0]

    rng = np.random.default_rng(0)
    for _ in range(3):
        direction = rng.normal(size=flat.size)
        direction /= np.linalg.norm(direction)
        step = 1e-5 * direction
        difference = (resolved(flat + step) - resolved(flat - step)) / 2e-5
        slope = float(ravel_pytree(found)[0] @ direction)
        assert slope == pytest.approx(float(difference), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("name", ["vig", "cig", "rig", "rcig"])
def test_the_inner_loss_is_a_mean_over_all_images_trained_on(problem, name, flip):
    coreset, network, *_ = problem
    coreset, method = replace(coreset, flip=flip), make_method(name)
    theta = jax.tree.map(
        lambda leaf: 0.3 * jax.random.normal(jax.random.key(leaf.size), leaf.shape),
        method.start(network),
    )
    images, labels = coreset.support()
    ridge = method.ridge_rate * len(coreset.images)
    if name in ("vig", "cig"):
        fit = np.sum((method.predict(theta, network, images) - labels) ** 2)
    else:  # the last layer is solved: with its own penalty, ridge r^T (h h^T + ridge)^-1 r is left
        h, offset = method.features_and_offset(theta, network, images)
        rest = np.asarray(labels - offset)
        fit = ridge * np.sum(rest * np.linalg.solve(h @ h.T + ridge * np.eye(len(h)), rest))
    penalty = ridge * float(optax.tree.norm(theta, squared=True))
    expected = 0.5 * (fit + penalty) / labels.size  # of all rows, mirror images included
    assert float(method.inner(theta, coreset, network)) == pytest.approx(float(expected), rel=1e-9)


def test_the_papers_way_converges_to_the_exact_one(problem, distance):
    method = make_method("rcig")
    exact = meta_gradient(method, problem, Newton(CG()), CG()).grad
    errors = []
    for steps in (20, 100, 800):
        schedule = optax.cosine_decay_schedule(1.0, steps)
        solver = GradientDescent(optax.adam(schedule), steps, scale=1e-2, loop="loop")
        inverse = SGD(optax.adam(schedule), steps, scale=30.0, rederive=True, loop="loop")
        errors.append(distance(meta_gradient(method, problem, solver, inverse).grad, exact))
    assert errors[0] > 5 * errors[1] > 25 * errors[2], errors
    assert errors[2] < 5e-3, errors


def test_frepo_is_rcig_without_body_parameters(problem, distance):
    coreset, network, images, targets = problem
    rcig, frepo = make_method("rcig"), METHODS["frepo"](platt=True)
    still = jax.tree.map(jnp.zeros_like, rcig.start(network))
    one = jax.value_and_grad(lambda c: rcig.outer(still, c, network, images, targets)[0])(coreset)
    other = jax.value_and_grad(
        lambda c: frepo.outer(frepo.start(network), c, network, images, targets)[0]
    )(coreset)
    assert one[0] == pytest.approx(float(other[0]), rel=1e-12)
    assert distance(one[1].images, other[1].images) < 1e-9


@pytest.mark.parametrize("pair", [("rig", "rcig"), ("vig", "cig")])
def test_linearised_methods_are_the_first_order_of_the_others(problem, pair):
    _, network, images, _ = problem
    curved, linear = (make_method(name) for name in pair)
    start = linear.start(network)
    direction = jax.tree.map(
        lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), start
    )

    def predictions(method, size):
        step = jax.tree.map(lambda leaf: size * leaf, direction)
        if pair[0] == "rig":
            return method.features_and_offset(step, network, images)[1]
        if method is curved:
            moved = eqx.apply_updates(eqx.filter(network, eqx.is_inexact_array), step)
            return method.predict(moved, network, images) - network(images)
        return method.predict(step, network, images)

    gaps = [
        float(jnp.abs(predictions(curved, s) - predictions(linear, s)).max()) for s in (1e-3, 1e-4)
    ]
    assert gaps[0] > 0 and gaps[1] < 0.02 * gaps[0]


@pytest.mark.parametrize("name", FIVE)
def test_microbatches_change_nothing(problem, name):
    coreset, network, images, targets = problem
    whole, parts = make_method(name), make_method(name, microbatch=5)
    theta = whole.start(network)
    one = whole.outer(theta, coreset, network, images, targets)[0]
    other = parts.outer(theta, coreset, network, images, targets)[0]
    assert float(one) == pytest.approx(float(other), rel=1e-12)


@pytest.mark.parametrize("name", FIVE)
def test_direct_gradients_are_where_the_table_says(problem, name):
    coreset, network, images, targets = problem
    method = make_method(name)
    theta = method.start(network)
    grad = jax.grad(lambda c: method.outer(theta, c, network, images, targets)[0])(coreset)
    assert bool(jnp.any(grad.images != 0)) is method.direct


def test_unknown_method_is_named():
    with pytest.raises(ValueError, match="method='magic' is not known: choose one of vig"):
        make_method("magic")
