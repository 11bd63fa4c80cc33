"""What distilled images begin as."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_distillation import RunConfig
from bilevel_distillation._engine._initial import initial_images
from bilevel_distillation.data import Preprocessor, load
from bilevel_distillation.networks import ConvNet


@pytest.fixture(scope="module")
def digits():
    data = load("digits")
    return data, Preprocessor.fit(data.train_images, zca=False)


def make(key: jax.Array) -> ConvNet:
    return ConvNet((8, 8, 1), 10, width=4, depth=1, key=key)


@pytest.mark.parametrize("init", ["real", "kmeans"])
def test_real_images_of_each_class_all_different(digits, init):
    images, labels = initial_images(RunConfig(ipc=4, init=init), *digits, make)
    assert images.shape == (40, 8, 8, 1)
    np.testing.assert_array_equal(labels, np.repeat(np.arange(10), 4))
    data, preprocessor = digits
    real = preprocessor(data.train_images)
    rows = [int(np.flatnonzero((real == one).all((1, 2, 3)))[0]) for one in images]
    assert len(set(rows)) == 40
    np.testing.assert_array_equal(data.train_labels[rows], labels)


def test_one_image_by_kmeans_is_the_nearest_to_the_mean_of_its_class(digits):
    images, _ = initial_images(RunConfig(init="kmeans", seed=3), *digits, make)
    data, preprocessor = digits
    network = make(jax.random.fold_in(jax.random.key(3), 4))
    for digit in (0, 7):
        of_class = preprocessor(data.train_images[data.train_labels == digit])
        features = np.asarray(network.features(jnp.asarray(of_class)))
        distances = np.linalg.norm(features - features.mean(0), axis=1)
        np.testing.assert_array_equal(images[digit], of_class[distances.argmin()])


def test_noise_has_the_classes_and_the_spread(digits):
    images, labels = initial_images(RunConfig(ipc=3, init="noise"), *digits, make)
    np.testing.assert_array_equal(labels, np.repeat(np.arange(10), 3))
    assert abs(images.mean()) < 0.1 and abs(images.std() - 1) < 0.1
    again, _ = initial_images(RunConfig(ipc=3, init="noise"), *digits, make)
    np.testing.assert_array_equal(images, again)
