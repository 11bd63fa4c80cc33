"""Normalisation against NumPy, and batch normalisation where networks are trained and distil."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from bilevel import linearize
from bilevel_distillation import Coreset, Distillation, EvaluationConfig, RunConfig, make_method
from bilevel_distillation import run as run_folder
from bilevel_distillation._engine._pool import make_member, train_step, with_statistics
from bilevel_distillation.engine import Linear, linear_gradient
from bilevel_distillation.networks import (
    BatchNorm,
    ConvNet,
    GroupNorm,
    has_batch_norm,
    is_body,
    is_parameter,
    make_normalization,
    refresh_statistics,
    smooth_relu,
)

SHAPE, CLASSES = (8, 8, 1), 3


def network_with(norm, **settings):
    how = dict(width=3, depth=2, norm=norm, activation=smooth_relu, key=jax.random.key(0))
    return ConvNet(SHAPE, CLASSES, **(how | settings))


def random_scales(tree, seed=0):
    """Ones and zeros would hide a missing scale or offset."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda a: jnp.asarray(rng.uniform(0.5, 1.5, a.shape), a.dtype) if eqx.is_array(a) else a,
        tree,
    )


def by_hand(x, axes, groups=1):
    """Standardised over axes of (n, h, w, groups, channels of a group)."""
    grouped = x.reshape(*x.shape[:3], groups, -1)
    mean = grouped.mean(axes, keepdims=True)
    deviation = np.sqrt(grouped.var(axes, keepdims=True) + 1e-5)
    return ((grouped - mean) / deviation).reshape(x.shape)


@pytest.mark.parametrize(
    ("name", "channels", "axes", "groups"),
    [
        ("batch", 4, (0, 1, 2), 1),
        ("instance", 4, (1, 2), 1),
        ("layer", 4, (1, 2, 3, 4), 1),
        ("group", 64, (1, 2, 4), 32),
        ("group", 48, (1, 2, 4), 16),
        ("none", 4, None, 1),
    ],
)
def test_each_equals_numpy(x64, name, channels, axes, groups):
    x = np.random.default_rng(1).normal(2, 3, size=(5, 4, 6, channels))
    layer = random_scales(make_normalization(name, channels))
    found = layer(jnp.asarray(x))
    if axes is None:
        np.testing.assert_array_equal(found, x)
        return
    expected = by_hand(x, axes, groups) * np.asarray(layer.scale) + np.asarray(layer.offset)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_stored_statistics_are_used_in_inference_and_have_no_derivative(x64):
    x = np.random.default_rng(1).normal(2, 3, size=(5, 4, 4, 2))
    layer = eqx.nn.inference_mode(random_scales(BatchNorm(2)))
    deviation = np.sqrt(np.asarray(layer.variance) + 1e-5)
    expected = (x - np.asarray(layer.mean)) / deviation * np.asarray(layer.scale)
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected + np.asarray(layer.offset))
    gradient = eqx.filter_grad(lambda layer: jnp.sum(layer(jnp.asarray(x)) ** 3))(layer)
    assert not gradient.mean.any() and not gradient.variance.any()
    assert gradient.scale.all() and gradient.offset.all()


@pytest.mark.parametrize("norm", ["batch", "instance", "group", "layer"])
def test_in_inference_rows_are_independent(x64, norm):
    images = jax.random.normal(jax.random.key(1), (6, *SHAPE))
    network = eqx.nn.inference_mode(refresh_statistics(network_with(norm), images))
    whole = network(images)
    np.testing.assert_allclose(network(images[2:4]), whole[2:4], rtol=1e-10)
    training = eqx.nn.inference_mode(network, False)
    alone = training(images[2:4])
    assert np.allclose(alone, whole[2:4], rtol=1e-10) is (norm != "batch")


def test_refreshed_statistics_are_those_that_training_normalises_by(x64):
    images = jax.random.normal(jax.random.key(1), (6, *SHAPE))
    network = random_scales(network_with("batch"))
    refreshed = eqx.filter_jit(refresh_statistics)(network, images)
    inner = np.asarray(network.layers[0](images))
    np.testing.assert_allclose(refreshed.norms[0].mean, inner.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(refreshed.norms[0].variance, inner.var((0, 1, 2)), rtol=1e-12)
    # The second layer's statistics are those of what the first one's make of the images.
    found = eqx.nn.inference_mode(refreshed)(images)
    np.testing.assert_allclose(found, network(images), rtol=1e-10)
    same = [jax.tree.structure(net) for net in (network, refreshed)]
    assert same[0] == same[1]


def test_without_batch_normalisation_nothing_is_computed():
    network = network_with("instance")
    assert not has_batch_norm(network) and has_batch_norm(network_with("batch"))
    assert refresh_statistics(network, jnp.zeros((2, *SHAPE))) is network
    coreset = Coreset(jnp.zeros((2, *SHAPE)), jnp.zeros((2, CLASSES)), jnp.zeros(()))
    assert with_statistics(network, coreset) is network


def test_statistics_are_no_parameters():
    network = network_with("batch")
    for spec, all_but in ((is_parameter(network), 0), (is_body(network), 1)):
        norm = spec.norms[0]
        assert (norm.scale, norm.offset, norm.mean, norm.variance) == (True, True, False, False)
        # Two layers, each with weight, bias, scale and offset; weight and bias of the head.
        assert sum(jax.tree.leaves(spec)) == 10 - all_but
    assert make_method("vig").start(network).norms[0].mean is None


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: make_normalization("bach", 4), r"norm='bach' is not known: choose one of none, b"),
        (lambda: GroupNorm(4, 3), r"groups=3 does not divide 4 channels: give one of their div"),
    ],
)
def test_what_cannot_be_is_said(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


@pytest.fixture
def problem(x64):
    keys = jax.random.split(jax.random.key(0), 3)
    labels = jnp.eye(CLASSES)[jnp.arange(6) % CLASSES] - 1 / CLASSES
    coreset = Coreset(
        jax.random.normal(keys[0], (6, *SHAPE)),
        labels + 0.1 * jax.random.normal(keys[1], labels.shape),
        jnp.asarray(0.3),
    )
    images = jax.random.normal(keys[2], (12, *SHAPE))
    network = eqx.nn.inference_mode(random_scales(network_with("batch")))
    return coreset, with_statistics(network, coreset), images, jnp.eye(CLASSES).repeat(4, 0)


def test_a_linearised_network_normalises_by_the_frozen_statistics(problem):
    _, network, images, _ = problem
    tangent = random_scales(linearize(network, filter_spec=is_parameter(network)).tangent, seed=3)
    linear = linearize(network, filter_spec=is_parameter(network)).at(tangent)

    def moved(step):
        one = jax.tree.map(lambda a, t: a if t is None else a + step * t, network, tangent)
        return np.asarray(one(images))

    step = 1e-6
    difference = (moved(step) - moved(-step)) / (2 * step)
    np.testing.assert_allclose(linear(images), difference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("linear_solver", ["cholesky", "cg"])
def test_the_meta_gradient_in_microbatches_is_that_of_the_whole(problem, linear_solver):
    how = Linear(linear_solver, 1e-12, 200)
    whole = linear_gradient(how, make_method("rcig"), *problem)
    parts = linear_gradient(how, make_method("rcig", microbatch=2), *problem)
    a, b = ravel_pytree(parts.grad)[0], ravel_pytree(whole.grad)[0]
    assert float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) < 1e-9


def test_a_network_of_the_pool_trains_on_the_statistics_of_all_distilled_images(problem):
    coreset, _, _, _ = problem
    adam = optax.adam(1e-2)
    member = make_member(lambda key: network_with("batch", key=key), adam, jax.random.key(4))
    assert member.network.norms[0].inference is True
    after = train_step(member, adam, coreset, microbatch=2)

    def loss(parameters):
        outputs = eqx.nn.inference_mode(parameters, False)(coreset.images)
        return 0.5 * jnp.mean(jnp.sum((outputs - coreset.labels) ** 2, axis=1))

    gradient = eqx.filter_grad(loss)(member.network)
    updates, _ = adam.update(gradient, adam.init(eqx.filter(member.network, eqx.is_inexact_array)))
    expected = eqx.apply_updates(member.network, updates)
    for one, other in zip(jax.tree.leaves(after.network), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)
    # Nothing of the gradient reaches them, and Adam leaves what has none.
    np.testing.assert_array_equal(after.network.norms[1].mean, member.network.norms[1].mean)
    np.testing.assert_array_equal(after.network.norms[1].variance, 1)


TINY = RunConfig(
    norm="batch",
    iterations=3,
    batch_size=16,
    width=2,
    depth=1,
    pool_size=2,
    pool_steps=2,
    pool_max_steps=2,
    curve_points=1,
    evaluation=EvaluationConfig(repeats=1, steps=2),
)


@pytest.mark.parametrize("method", ["rcig", "vig"])
def test_distilling_with_batch_normalisation(method):
    distillation = Distillation(replace(TINY, method=method))
    before = np.asarray(distillation.state.coreset.images)
    for _ in range(3):
        metrics = distillation.step()
    assert np.isfinite(float(metrics.loss))
    images = np.asarray(distillation.state.coreset.images)
    assert np.isfinite(images).all() and not np.allclose(images, before)
    assert has_batch_norm(distillation.state.pool.networks)


def test_a_run_with_batch_normalisation_resumes(tmp_path):
    out = tmp_path / "run"
    run_folder(replace(TINY, out=out))
    first = (out / "results.json").read_text()
    (out / "results.json").unlink()
    run_folder(replace(TINY, out=out))
    assert (out / "results.json").read_text() == first
