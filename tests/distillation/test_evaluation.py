"""Networks trained from scratch: the schedule, the batches, and what they learn."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel_distillation import EvaluationConfig
from bilevel_distillation._evaluation import accuracy, evaluate, schedule, train_network
from bilevel_distillation._losses import squared_error
from bilevel_distillation.data import Preprocessor, load
from bilevel_distillation.networks import ConvNet

SHORT = EvaluationConfig(networks=2, steps=3, learning_rate=1e-2, warmup=1)


def make_network(key):
    return ConvNet((8, 8, 1), 10, width=4, depth=2, key=key)


@pytest.fixture(scope="module")
def digits():
    data = load("digits")
    preprocess = Preprocessor.fit(data.train_images, zca=False)
    train, labels = preprocess(data.train_images), data.train_labels
    means = np.stack([train[labels == digit].mean(0) for digit in range(10)])
    return (
        jnp.asarray(means),
        jnp.eye(10) - 0.1,
        jnp.asarray(preprocess(data.test_images)),
        jnp.asarray(data.test_labels),
    )


def test_the_rate_warms_up_linearly_and_falls_to_one_percent_as_a_cosine():
    rate = schedule(2e-3, warmup=500, steps=2000)
    assert float(rate(0)) == 0
    assert float(rate(125)) == pytest.approx(0.25 * 2e-3)
    assert float(rate(500)) == pytest.approx(2e-3)
    assert float(rate(1250)) == pytest.approx(2e-3 * (0.01 + 0.99 * 0.5), rel=1e-5)
    assert float(rate(2000)) == pytest.approx(2e-5, rel=1e-5)


def test_warm_up_takes_at_most_half_of_the_steps():
    rate = schedule(1.0, warmup=500, steps=100)
    assert int(np.argmax([float(rate(step)) for step in range(101)])) == 50


def test_accuracy_in_batches_equals_all_at_once(digits):
    _, _, images, labels = digits
    network = make_network(jax.random.key(0))
    images, labels = images[:103], labels[:103]
    expected = np.mean(np.asarray(network(images)).argmax(axis=1) == np.asarray(labels))
    for batch_size in (1000, 103, 50, 10):
        found = accuracy(network, images, labels, batch_size=batch_size)
        assert float(found) == pytest.approx(expected, rel=1e-6)


def test_training_takes_adam_steps_on_the_squared_error(digits):
    images, labels, _, _ = digits
    key = jax.random.key(3)
    found = train_network(images, labels, make_network, SHORT, key)
    network = make_network(jax.random.split(key)[0])
    optimiser = optax.adam(schedule(1e-2, 1, 3))
    state = optimiser.init(network)
    gradient = jax.jit(jax.grad(lambda net: squared_error(net(images), labels)))
    for _ in range(3):
        updates, state = optimiser.update(gradient(network), state)
        network = optax.apply_updates(network, updates)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(network), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_networks_trained_on_class_means_beat_chance(digits):
    config = replace(SHORT, steps=200, learning_rate=3e-3, warmup=20)
    told = []
    found = evaluate(*digits, make_network, config, jax.random.key(0), told.append)
    assert len(found) == 2 and found[0] != found[1] and told == found
    assert all(value > 0.5 for value in found), found


def test_the_same_key_gives_the_same_networks(digits):
    run = partial(evaluate, *digits, make_network, SHORT)
    assert run(jax.random.key(1)) == run(jax.random.key(1)) != run(jax.random.key(2))


def test_larger_sets_are_trained_on_in_random_batches(digits):
    images, labels, _, _ = digits
    bright = replace(SHORT, steps=1, warmup=0, batch_size=4)
    train = partial(train_network, images, labels, make_network)
    key = jax.random.key(5)
    rows = jax.random.choice(
        jax.random.fold_in(jax.random.split(key)[1], 0), 10, (4,), replace=False
    )
    found = train(bright, key)
    expected = train_network(images[rows], labels[rows], make_network, bright, key)
    whole = train(replace(bright, batch_size=10), key)
    leaves = [jax.tree.leaves(net)[0] for net in (found, expected, whole)]
    np.testing.assert_allclose(leaves[0], leaves[1], rtol=1e-4, atol=1e-6)
    assert not np.allclose(leaves[0], leaves[2], rtol=1e-3)


def test_open_steps_are_said(digits):
    with pytest.raises(ValueError, match="evaluation.steps is None: give a number"):
        train_network(*digits[:2], make_network, EvaluationConfig(), jax.random.key(0))
