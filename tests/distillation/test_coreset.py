"""The outer variable: mirror images, labels, and where it starts."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_distillation import Coreset
from bilevel_distillation._problem._coreset import centred_one_hot, choose_per_class


@pytest.fixture
def coreset():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(3, 2, 4, 3)), jnp.float32)
    return Coreset(images, jnp.asarray(rng.normal(size=(3, 2)), jnp.float32), jnp.zeros(()))


def test_without_flips_the_support_is_the_coreset(coreset):
    images, labels = coreset.support()
    assert images is coreset.images and labels is coreset.labels


def test_flips_double_the_support_by_mirror_images(coreset):
    coreset = replace(coreset, flip=True)
    assert coreset.rows == 6
    images, labels = coreset.support()
    assert images.shape == (6, 2, 4, 3)
    np.testing.assert_array_equal(images[:3], coreset.images)
    np.testing.assert_array_equal(images[3:], np.flip(coreset.images, axis=2))  # left and right
    np.testing.assert_array_equal(labels, np.concatenate([coreset.labels] * 2))


def test_gradients_of_both_halves_flow_to_the_one_stored_copy(coreset):
    weights = jax.random.normal(jax.random.key(1), (6, 2, 4, 3))

    def loss(coreset):
        images, labels = replace(coreset, flip=True).support()
        return jnp.sum(weights * images) + jnp.sum(labels**2)

    gradient = jax.grad(loss)(coreset)
    expected = weights[:3] + jnp.flip(weights[3:], axis=2)
    np.testing.assert_allclose(gradient.images, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient.labels, 4 * coreset.labels, rtol=1e-6)


def test_labels_start_as_one_hot_minus_one_over_classes():
    found = centred_one_hot(np.array([2, 0]), 4)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[-0.25, -0.25, 0.75, -0.25], [0.75, -0.25, -0.25, -0.25]])


def test_images_are_chosen_at_random_within_each_class():
    labels = np.array([2, 0, 1, 1, 0, 2, 1, 0, 2, 1])
    rows = choose_per_class(labels, 3, 2, np.random.default_rng(0))
    np.testing.assert_array_equal(labels[rows], [0, 0, 1, 1, 2, 2])
    assert len(set(rows)) == 6
    again = choose_per_class(labels, 3, 2, np.random.default_rng(0))
    np.testing.assert_array_equal(rows, again)
    draws = [choose_per_class(labels, 3, 2, np.random.default_rng(seed)) for seed in range(200)]
    # Every image comes up as often as the others of its class: 2 of 3 or 4, within 5 deviations.
    counts = np.bincount(np.concatenate(draws), minlength=len(labels)) / 200
    expected = 2 / np.bincount(labels)[labels]
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(0.25 / 200))
