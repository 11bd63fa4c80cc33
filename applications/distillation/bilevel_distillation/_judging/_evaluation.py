"""Judging a set of images and labels: networks trained from scratch on it."""

from collections.abc import Callable
from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._config import EvaluationConfig, Trainer
from .._engine import MakeNetwork, Member, make_member, train_on
from .._problem import soft_cross_entropy, squared_error
from .._running import compiled, on_cpu, part_size, portions, repeat
from ..data import augment
from ..networks import AbstractNetwork, has_batch_norm, refresh_statistics

FOR_STATISTICS = 1000

MOMENTS = 10
"""Evenly spaced, at which held-out images say what to keep."""

LOSSES = {"squared": squared_error, "cross-entropy": soft_cross_entropy}

_decay = optax.add_decayed_weights(5e-4)

Watched = tuple[Float[Array, "w height width channels"], Int[Array, " w"]]
"""Held-out training images, and their classes."""


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
    watched: Watched | None = None,
) -> AbstractNetwork:
    """One network, trained from scratch, and ready to predict: its batch normalisation has the
    statistics of (at most 1,000 of) the images.

    With `config.select` it is that of the moment at which it was best on the `watched` images, the
    first of equally good ones; else it is that of the last step. On an accelerator the steps
    between two moments are one compiled loop; on a CPU they are dispatched one by one, and large
    batches part by part.
    """
    steps, learning_rate = config.steps, config.learning_rate
    if steps is None or learning_rate is None:
        name = "steps" if steps is None else "learning_rate"
        raise ValueError(f"evaluation.{name} is None: give a number, or resolve the config first.")
    if config.select and watched is None:
        raise ValueError("select=True needs held-out training images: give watched=.")
    optimiser = _optimiser(config.optimiser, learning_rate, config.warmup, steps)
    network_key, batch_key = jax.random.split(key)
    member = _make(make_network, optimiser, network_key)
    batch_size = min(config.batch_size, images.shape[0])
    loss = LOSSES[config.loss]
    fixed = (optimiser, images, labels, batch_key, batch_size, config.augment, loss)
    if not config.select or watched is None:
        member = _train(fixed, member, 0, steps)
        return _finish(member.network, images[:FOR_STATISTICS])
    best, most, begun = None, jnp.asarray(-1.0), 0
    for moment in sorted({round(steps * (k + 1) / MOMENTS) for k in range(MOMENTS)} - {0}):
        member, begun = _train(fixed, member, begun, moment), moment
        network = _copied(_finish(member.network, images[:FOR_STATISTICS]))
        found = accuracy(network, *watched)
        best = network if best is None else _choose(found > most, network, best)
        most = jnp.maximum(most, found)
    assert best is not None
    return best


def _train(fixed, member: Member, begun: int, end: int) -> Member:
    """From one step to another."""
    if not on_cpu():
        return _train_looped(fixed, member, jnp.asarray(begun), jnp.asarray(end))
    _, images, _, _, batch_size, *_ = fixed
    take_step = _step if _in_parts(member.network, images[:batch_size]) else _step_donated
    for step in range(begun, end):
        member = take_step((*fixed, np.int32(step)), member)
    return member


def _copied(network: AbstractNetwork) -> AbstractNetwork:
    """In memory of its own, as the next step uses up that of the last."""
    return jax.tree.map(lambda leaf: jnp.array(leaf) if eqx.is_array(leaf) else leaf, network)


@eqx.filter_jit
def _choose(first, one, other):
    return jax.tree.map(lambda a, b: jnp.where(first, a, b) if eqx.is_array(a) else a, one, other)


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
    watched: Watched | None = None,
    noted: Callable[[float], None] = lambda accuracy: None,
) -> list[float]:
    """Test accuracies, as fractions, of `config.repeats` networks trained on the images; `noted` is
    called with that of each on the watched images, if there are any.

    Several networks at once on an accelerator; one after the other on a CPU.
    """
    keys = jax.random.split(key, config.repeats)

    def train(one: PRNGKeyArray) -> AbstractNetwork:
        return train_network(images, labels, make_network, config, one, watched)

    if not on_cpu():
        networks = eqx.filter_vmap(train)(keys)
        if watched is not None:
            for hit in _all_hits(networks, *watched):
                noted(hit)
        found = _all_hits(networks, test_images, test_labels)
        for hit in found:
            done(hit)
        return found
    accuracies = []
    for one in keys:
        network = train(one)
        if watched is not None:
            noted(float(accuracy(network, *watched)))
        accuracies.append(float(accuracy(network, test_images, test_labels)))
        done(accuracies[-1])
    return accuracies


def _all_hits(networks: AbstractNetwork, images: Array, labels: Array) -> list[float]:
    """Of stacked networks."""
    hits = eqx.filter_vmap(lambda net: accuracy(net, images, labels))(networks)
    return [float(hit) for hit in hits]


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
def _optimiser(
    name: Trainer, learning_rate: float, warmup: int, steps: int
) -> optax.GradientTransformation:
    """One object for each setting, so that compiled steps are found again."""
    if name == "adam":
        return optax.adam(schedule(learning_rate, warmup, steps))
    rate = optax.piecewise_constant_schedule(learning_rate, {steps // 2: 0.1})
    return optax.chain(_decay, optax.sgd(rate, momentum=0.9))


def _step(fixed, member: Member) -> Member:
    optimiser, images, labels, key, batch_size, changed, loss, step = fixed
    rows = _batch(images, labels, key, batch_size, changed, step)
    return train_on(member, optimiser, rows, loss=loss)


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
def _train_looped(fixed, member: Member, begun, end) -> Member:
    return repeat(lambda k, member: _step((*fixed, begun + k), member), member, end - begun)
