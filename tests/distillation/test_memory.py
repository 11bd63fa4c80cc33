"""Parts of a batch that a CPU takes at once: how large, and that they change nothing."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_distillation import EvaluationConfig
from bilevel_distillation._judging import _evaluation
from bilevel_distillation._judging._evaluation import accuracy, train_network
from bilevel_distillation._running import _memory
from bilevel_distillation._running._memory import part_size
from bilevel_distillation._running._parts import recorded
from bilevel_distillation.networks import AbstractNetwork, ConvNet

only_on_a_cpu = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="only a CPU takes a batch in parts"
)


def make_network(key, width=4, norm="none"):
    return ConvNet((8, 8, 1), 3, width=width, depth=2, norm=norm, key=key)


@pytest.fixture
def batch(getkey):
    return jax.random.normal(getkey(), (12, 8, 8, 1)), jnp.eye(3)[jnp.arange(12) % 3]


def make_room(monkeypatch, network: AbstractNetwork, images: int) -> None:
    """Leave room for so many images of 8 x 8 pixels."""
    monkeypatch.setattr(_memory, "MOST_HELD", 1)
    ones = jnp.zeros((1000, 8, 8, 1))
    while part_size(network, ones, None) != images:
        monkeypatch.setattr(_memory, "MOST_HELD", 1.05 * _memory.MOST_HELD)


@only_on_a_cpu
def test_small_batches_are_whole_and_large_ones_fit(getkey):
    network = make_network(getkey())
    assert part_size(network, jnp.zeros((12, 8, 8, 1)), None) is None
    images = jnp.zeros((100_000, 8, 8, 1))
    size = part_size(network, images, None)
    assert size is not None and 1 < size < 100_000
    wide = part_size(make_network(getkey(), width=64), images, None)
    assert wide is not None and wide < size / 8  # 16 times the channels
    assert part_size(network, images, 5) == 5
    assert part_size(network, images, 10 * size) == size


@only_on_a_cpu
def test_weights_may_be_numpy_arrays(getkey):
    network, images = make_network(getkey()), jnp.zeros((100_000, 8, 8, 1))
    of_numpy = jax.tree.map(lambda x: np.asarray(x) if eqx.is_array(x) else x, network)
    assert part_size(of_numpy, images, None) == part_size(network, images, None)


def test_under_a_trace_nothing_is_divided(getkey):
    network, found = make_network(getkey()), []
    jax.eval_shape(
        lambda images: found.append(part_size(network, images, None)), jnp.zeros((10**6, 8, 8, 1))
    )
    assert found == [None]


@only_on_a_cpu
@pytest.mark.parametrize("config", [{}, {"batch_size": 7}, {"augment": True}])
def test_training_in_parts_is_training(x64, monkeypatch, getkey, batch, config):
    settings = EvaluationConfig(repeats=1, steps=4, learning_rate=1e-2, warmup=1)
    settings, key = replace(settings, **config), getkey()
    whole = train_network(*batch, make_network, settings, key)
    make_room(monkeypatch, whole, 5)
    with recorded() as calls:
        in_parts = train_network(*batch, make_network, settings, key)
    sizes = [call.arguments[2].shape[0] for call in calls if call.name == "_gradient"]
    assert sizes == ([5, 2] if "batch_size" in config else [4, 4, 4]) * 4
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(in_parts), strict=True):
        if eqx.is_array(one):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-14)


@only_on_a_cpu
def test_batch_normalisation_sees_the_whole_batch(monkeypatch, getkey, batch):
    network = make_network(getkey(), norm="batch")
    make_room(monkeypatch, network, 5)
    assert not _evaluation._in_parts(network, batch[0])


@only_on_a_cpu
def test_accuracy_in_parts_is_the_accuracy(monkeypatch, getkey, batch):
    network = make_network(getkey())
    images, labels = batch[0], jnp.argmax(network(batch[0]), axis=1).at[:3].add(1) % 3
    assert float(accuracy(network, images, labels)) == 0.75
    make_room(monkeypatch, network, 5)
    assert float(accuracy(network, images, labels)) == 0.75
