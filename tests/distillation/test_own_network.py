"""A network that the user brings, in place of the ConvNet."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from bilevel_distillation import (
    Distillation,
    EvaluationConfig,
    RunConfig,
    hold,
    judge,
    judge_random_subsets,
)
from bilevel_distillation.networks import AbstractNetwork, Dense

TINY = RunConfig(
    batch_size=16, pool_size=2, pool_steps=2, evaluation=EvaluationConfig(repeats=1, steps=2)
)


class Perceptron(AbstractNetwork):
    hidden: Dense
    head: Dense
    activation: Callable[[Array], Array]  # a leaf that is no array

    def __init__(self, key, classes=10):
        one, other = jax.random.split(key)
        self.hidden, self.head = Dense(64, 5, key=one), Dense(5, classes, key=other)
        self.activation = jnp.tanh

    def features(self, x):
        return self.activation(self.hidden(x.reshape(len(x), -1)))


@pytest.mark.parametrize("method", ["rcig", "rig", "vig"])
def test_it_distils_and_judges(method):
    distillation = Distillation(replace(TINY, method=method), make_network=Perceptron)
    before = np.asarray(distillation.state.coreset.images)
    for _ in range(2):
        metrics = distillation.step()
    assert np.isfinite(float(metrics.loss))
    assert not np.allclose(distillation.state.coreset.images, before)
    assert type(distillation.state.pool.networks) is Perceptron
    if method != "rcig":
        return
    distilled = distillation.distilled()
    assert distilled.provenance["network"] == "Perceptron"
    assert "depth" not in distilled.provenance
    held = hold(distillation.data, distillation.preprocessor)
    config = distillation.config
    (one,) = judge(config, held, distilled, make_network=Perceptron)
    (other,) = judge_random_subsets(
        config, distillation.data, held, distilled, make_network=Perceptron
    )
    assert 0 <= one <= 1 and 0 <= other <= 1


def test_one_that_does_not_fit_is_said_before_anything_is_computed():
    for make_network, sentence in [
        (
            lambda key: Perceptron(key, classes=9),
            r"outputs of shape \(2, 9\) for 2 images: make it ",
        ),
        (
            lambda key: eqx.tree_at(
                lambda network: network.head, Perceptron(key), eqx.nn.Linear(32, 10, key=key)
            ),
            "make_network gives a network whose head is a Linear: make it a bilevel_distillation.",
        ),
        (lambda key: Dense(64, 10, key=key), "make_network gives a Dense: make a subclass of"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            Distillation(TINY, make_network=make_network)


def test_the_example_of_the_documentation_runs():
    page = (Path(__file__).parents[2] / "docs" / "distillation.md").read_text()
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "distillation.md", "exec"), names)
    assert names["distillation"].iteration == 2
    assert type(names["distillation"].state.pool.networks).__name__ == "Perceptron"
