"""What the tests of the meta-gradient share: a small problem, and how far two answers are apart."""

import jax
import jax.numpy as jnp
import optax
import pytest

from bilevel_distillation import Coreset
from bilevel_distillation.networks import ConvNet, smooth_relu

CLASSES, N, BATCH, SHAPE = 3, 6, 12, (8, 8, 1)


@pytest.fixture
def problem(x64):
    """Coreset, small network, images and targets of a batch: random, in float64."""
    keys = jax.random.split(jax.random.key(0), 4)
    network = ConvNet(SHAPE, CLASSES, width=3, depth=2, activation=smooth_relu, key=keys[0])
    assert network.head.weight.dtype == jnp.float64
    labels = jnp.eye(CLASSES)[jnp.arange(N) % CLASSES] - 1 / CLASSES
    coreset = Coreset(
        jax.random.normal(keys[1], (N, *SHAPE)),
        labels + 0.1 * jax.random.normal(keys[2], labels.shape),
        jnp.asarray(0.3),
    )
    images = jax.random.normal(keys[3], (BATCH, *SHAPE))
    targets = jnp.eye(CLASSES)[jnp.arange(BATCH) % CLASSES]
    return coreset, network, images, targets


@pytest.fixture(scope="session")
def distance():
    """`distance(one, other)`: the length of the difference of two trees, relative to `other`."""

    def relative(one, other):
        gap = optax.tree.norm(optax.tree.sub(one, other))
        return float(gap / jnp.maximum(optax.tree.norm(other), 1e-30))

    return relative
