"""Judging a set of images and labels: networks trained from scratch on it."""

from collections.abc import Callable
from functools import cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ._augmentation import augment
from ._config import EvaluationConfig
from ._losses import squared_error
from ._pool import MakeNetwork
from .networks import AbstractNetwork, refresh_statistics

FOR_STATISTICS = 1000


def schedule(learning_rate: float, warmup: int, steps: int) -> optax.Schedule:
    """Linear warm-up (of at most half the steps), then cosine to 1 % of the rate (appendix C)."""
    return optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, min(warmup, steps // 2), steps, 0.01 * learning_rate
    )


def train_network(
    images: Float[Array, "n height width channels"],
    labels: Float[Array, "n classes"],
    make_network: MakeNetwork,
    config: EvaluationConfig,
    key: PRNGKeyArray,
) -> AbstractNetwork:
    """One network, trained from scratch with Adam on the squared error, and ready to predict: its
    batch normalisation has the statistics of (at most 1,000 of) the images.

    On an accelerator all steps are one compiled loop; on a CPU they are dispatched one by one,
    because XLA's CPU loops slow convolutions down.
    """
    steps, learning_rate = config.steps, config.learning_rate
    if steps is None or learning_rate is None:
        name = "steps" if steps is None else "learning_rate"
        raise ValueError(f"evaluation.{name} is None: give a number, or resolve the config first.")
    optimiser = _optimiser(learning_rate, config.warmup, steps)
    network_key, batch_key = jax.random.split(key)
    network = _make(make_network, network_key)
    state = (network, optimiser.init(eqx.filter(network, eqx.is_inexact_array)))
    batch_size = min(config.batch_size, images.shape[0])
    fixed = (optimiser, images, labels, batch_key, batch_size, config.augment)
    if jax.default_backend() == "cpu":
        for step in range(steps):
            state = _step_donated((*fixed, np.int32(step)), state)
    else:
        state = _train_looped(fixed, state, steps)
    return _finish(state[0], images[:FOR_STATISTICS])


def evaluate(
    images: Float[Array, "n height width channels"],
    labels: Float[Array, "n classes"],
    test_images: Float[Array, "t height width channels"],
    test_labels: Int[Array, " t"],
    make_network: MakeNetwork,
    config: EvaluationConfig,
    key: PRNGKeyArray,
    done: Callable[[float], None] = lambda accuracy: None,
) -> list[float]:
    """Test accuracies, as fractions, of `config.repeats` networks trained on the images.

    Several networks at once on an accelerator; one after the other on a CPU, where a batched
    convolution is slower than several single ones.
    """
    keys = jax.random.split(key, config.repeats)
    if jax.default_backend() != "cpu":
        train = partial(train_network, images, labels, make_network, config)
        networks = eqx.filter_vmap(lambda k: train(k))(keys)
        hits = eqx.filter_vmap(lambda net: accuracy(net, test_images, test_labels))(networks)
        for hit in hits:
            done(float(hit))
        return [float(hit) for hit in hits]
    accuracies = []
    for one in keys:
        network = train_network(images, labels, make_network, config, one)
        accuracies.append(float(accuracy(network, test_images, test_labels)))
        done(accuracies[-1])
    return accuracies


def accuracy(
    network: AbstractNetwork,
    images: Float[Array, "n height width channels"],
    labels: Int[Array, " n"],
    batch_size: int = 250,
) -> Float[Array, ""]:
    """The fraction of images that the network classifies right."""
    hits = [
        _hits(network, images[i : i + batch_size], labels[i : i + batch_size])
        for i in range(0, images.shape[0], batch_size)
    ]
    return sum(hits, jnp.zeros(())) / images.shape[0]


@eqx.filter_jit
def _hits(network, images, labels):
    return jnp.sum(jnp.argmax(network(images), axis=1) == labels)


@eqx.filter_jit
def _make(make_network, key):
    return eqx.nn.inference_mode(make_network(key), False)


@eqx.filter_jit
def _finish(network, images):
    return eqx.nn.inference_mode(refresh_statistics(network, images))


@cache
def _optimiser(learning_rate: float, warmup: int, steps: int) -> optax.GradientTransformation:
    """One object for each setting, so that compiled steps are found again."""
    return optax.adam(schedule(learning_rate, warmup, steps))


def _step(fixed, state):
    optimiser, images, labels, key, batch_size, changed, step = fixed
    network, optimiser_state = state
    if batch_size < images.shape[0]:
        rows = jax.random.choice(
            jax.random.fold_in(key, step), images.shape[0], (batch_size,), replace=False
        )
        images, labels = images[rows], labels[rows]
    if changed:
        images = augment(images, jax.random.fold_in(jax.random.fold_in(key, step), 1))
    gradient = eqx.filter_grad(lambda net: squared_error(net(images), labels))(network)
    updates, optimiser_state = optimiser.update(gradient, optimiser_state)
    return eqx.apply_updates(network, updates), optimiser_state


_step_donated = eqx.filter_jit(_step, donate="all-except-first")


@eqx.filter_jit
def _train_looped(fixed, state, steps):
    arrays, static = eqx.partition(state, eqx.is_array)

    def body(step, arrays):
        return eqx.filter(_step((*fixed, step), eqx.combine(arrays, static)), eqx.is_array)

    return eqx.combine(lax.fori_loop(0, steps, body, arrays), static)
