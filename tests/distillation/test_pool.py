"""The pool: its networks are apart, and are trained on all images of the coreset."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel_distillation import Coreset
from bilevel_distillation._engine._pool import make_pool
from bilevel_distillation.engine import put, take, train_step
from bilevel_distillation.networks import ConvNet

SGD = optax.sgd(0.5)


def make(key):
    return ConvNet((4, 4, 1), 3, width=2, depth=1, key=key)


@pytest.fixture
def coreset(x64):
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(6, 4, 4, 1)), rng.normal(size=(6, 3))
    return Coreset(jnp.asarray(images), jnp.asarray(labels), jnp.zeros(()), flip=True)


@pytest.fixture
def pool(x64):
    return make_pool(make, SGD, 3, jax.random.key(0))


def weights(member):
    leaves = jax.tree.leaves(eqx.filter(member.network, eqx.is_inexact_array))
    return np.concatenate([np.ravel(leaf) for leaf in leaves])


def test_its_networks_are_fresh_and_each_another(pool):
    assert list(pool.ages) == [0, 0, 0]
    one, other, third = (weights(take(pool, jnp.asarray(i))) for i in range(3))
    assert not np.allclose(one, other) and not np.allclose(other, third)


def test_what_is_put_is_taken_and_the_others_stay(pool, coreset):
    trained = train_step(take(pool, jnp.asarray(1)), SGD, coreset)
    after = put(pool, jnp.asarray(1), trained)
    assert list(after.ages) == [0, 1, 0]
    np.testing.assert_array_equal(weights(take(after, jnp.asarray(1))), weights(trained))
    for i in (0, 2):
        before, now = (weights(take(one, jnp.asarray(i))) for one in (pool, after))
        np.testing.assert_array_equal(before, now)


@pytest.mark.parametrize("microbatch", [None, 5])
def test_a_training_step_descends_the_mean_over_images_and_mirror_images(pool, coreset, microbatch):
    member = take(pool, jnp.asarray(0))
    images, labels = coreset.support()

    @eqx.filter_grad
    def gradient(network):
        return 0.5 * jnp.sum((network(images) - labels) ** 2) / len(images)

    step = jax.tree.map(lambda leaf: -0.5 * leaf, gradient(member.network))
    expected = weights(replace(member, network=eqx.apply_updates(member.network, step)))
    found = train_step(member, SGD, coreset, microbatch)
    np.testing.assert_allclose(weights(found), expected, rtol=1e-10, atol=1e-12)
    assert int(found.age) == 1 and np.linalg.norm(expected - weights(member)) > 1e-2
