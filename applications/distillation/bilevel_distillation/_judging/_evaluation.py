"""Judging a set of images and labels: networks trained from scratch on it."""

from collections.abc import Callable
from functools import cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._config import EvaluationConfig
from .._engine import MakeNetwork, Member, make_member, train_on
from .._running import compiled, on_cpu, part_size, portions, repeat
from ..data import augment
from ..networks import AbstractNetwork, has_batch_norm, refresh_statistics

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

    On an accelerator all steps are one compiled loop; on a CPU they are dispatched one by one, and
    large batches part by part.
    """
    steps, learning_rate = config.steps, config.learning_rate
    if steps is None or learning_rate is None:
        name = "steps" if steps is None else "learning_rate"
        raise ValueError(f"evaluation.{name} is None: give a number, or resolve the config first.")
    optimiser = _optimiser(learning_rate, config.warmup, steps)
    network_key, batch_key = jax.random.split(key)
    member = _make(make_network, optimiser, network_key)
    batch_size = min(config.batch_size, images.shape[0])
    fixed = (optimiser, images, labels, batch_key, batch_size, config.augment)
    if on_cpu():
        take_step = _step if _in_parts(member.network, images[:batch_size]) else _step_donated
        for step in range(steps):
            member = take_step((*fixed, np.int32(step)), member)
    else:
        member = _train_looped(fixed, member, steps)
    return _finish(member.network, images[:FOR_STATISTICS])


def _in_parts(network: AbstractNetwork, batch: Float[Array, "n height width channels"]) -> bool:
    return not has_batch_norm(network) and part_size(network, batch, None) is not None


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

    Several networks at once on an accelerator; one after the other on a CPU.
    """
    keys = jax.random.split(key, config.repeats)
    if not on_cpu():
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
    batch_size: int | None = None,
) -> Float[Array, ""]:
    """The fraction of images that the network classifies right, `batch_size` of them at a time
    (None: 250, or on a CPU as many as a program should take).
    """
    batch_size = batch_size or part_size(network, images, 250) or 250
    hits = [_hits(network, *part) for part in portions((images, labels), batch_size)]
    return sum(hits, jnp.zeros(())) / images.shape[0]


@eqx.filter_jit
def _hits(network, images, labels):
    return jnp.sum(jnp.argmax(network(images), axis=1) == labels)


@eqx.filter_jit
def _make(make_network, optimiser, key) -> Member:
    return make_member(make_network, optimiser, key)


@eqx.filter_jit
def _finish(network, images):
    return eqx.nn.inference_mode(refresh_statistics(network, images))


@cache
def _optimiser(learning_rate: float, warmup: int, steps: int) -> optax.GradientTransformation:
    """One object for each setting, so that compiled steps are found again."""
    return optax.adam(schedule(learning_rate, warmup, steps))


def _step(fixed, member: Member) -> Member:
    optimiser, images, labels, key, batch_size, changed, step = fixed
    return train_on(member, optimiser, _batch(images, labels, key, batch_size, changed, step))


@compiled
def _batch(images, labels, key, batch_size: int, changed: bool, step):
    if batch_size < images.shape[0]:
        rows = jax.random.choice(
            jax.random.fold_in(key, step), images.shape[0], (batch_size,), replace=False
        )
        images, labels = images[rows], labels[rows]
    if changed:
        images = augment(images, jax.random.fold_in(jax.random.fold_in(key, step), 1))
    return images, labels


_step_donated = eqx.filter_jit(_step, donate="all-except-first")


@eqx.filter_jit
def _train_looped(fixed, member: Member, steps) -> Member:
    return repeat(lambda step, member: _step((*fixed, step), member), member, steps)
