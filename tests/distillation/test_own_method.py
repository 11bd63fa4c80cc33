"""A method that the user brings: it needs nothing but its own file."""

import sys
from dataclasses import replace
from importlib.metadata import EntryPoint

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jaxtyping import Array

from bilevel_distillation import AbstractMethod, Distillation, EvaluationConfig, RunConfig, run
from bilevel_distillation._methods import _find
from bilevel_distillation.engine import MetaGradient

TINY = RunConfig(
    width=3, depth=1, batch_size=16, pool_size=2, pool_steps=2, iterations=3, curve_points=1,
    evaluation=EvaluationConfig(repeats=1, steps=2),
)  # fmt: skip


class Means(AbstractMethod):
    """Matches the mean features of each class under random networks; counts its steps."""

    microbatch: int | None = eqx.field(default=None, static=True)
    weight: float = eqx.field(default=1.0, static=True)

    trains_pool = False

    def begin(self, coreset):
        return jnp.zeros((), jnp.int32)

    def rows(self, rng, labels, size):
        each = size // (labels.max() + 1)
        return np.concatenate(
            [rng.choice(np.flatnonzero(labels == c), each, False) for c in range(labels.max() + 1)]
        )

    @classmethod
    def presets(cls, dataset, ipc):
        return {"batch_size": 20, "width": 5}

    def gradient(self, coreset, batch):
        value, grad = _difference(coreset, batch)
        return MetaGradient(
            value=self.weight * value,
            direct=jax.tree.map(lambda leaf: self.weight * leaf, grad),
            measured={"steps_before": batch.carried},
            carried=batch.carried + 1,
        )


@eqx.filter_jit
def _difference(coreset, batch) -> tuple[Array, Array]:
    def means(images, labels):
        shares = labels / labels.sum(0)
        return shares.T @ batch.network.features(images)

    def loss(coreset):
        images, labels = coreset.support()
        hard = jax.nn.one_hot(labels.argmax(1), labels.shape[1])
        return jnp.mean((means(images, hard) - means(batch.images, batch.targets)) ** 2)

    return eqx.filter_value_and_grad(loss)(coreset)


@pytest.mark.parametrize("method", [Means, Means(weight=2.0)], ids=["class", "instance"])
def test_it_distils_with_its_own_batches_networks_state_and_settings(method):
    distillation = Distillation(TINY, method=method)
    config = distillation.config
    assert (config.batch_size, config.width) == (16, 3)  # what the user says comes first
    images = np.asarray(distillation.state.coreset.images)
    weight = np.asarray(distillation.state.pool.networks.head.weight)
    _, _, draws = distillation.next_arguments()
    drawn = distillation.data.train_labels[np.asarray(draws.rows)]
    assert (np.bincount(drawn, minlength=10) == 1).all()
    for step in range(3):
        metrics = distillation.step()
        assert set(metrics.values) == {"loss", "steps_before"}
        assert int(metrics["steps_before"]) == step
    assert int(distillation.state.carried) == 3
    assert not np.allclose(distillation.state.coreset.images, images)
    np.testing.assert_array_equal(distillation.state.pool.ages, 0)
    assert not np.allclose(distillation.state.pool.networks.head.weight, weight)
    assert distillation.distilled().provenance["method"] == "Means"


def test_its_fields_are_the_settings_of_their_names():
    open_ones = replace(TINY, batch_size=None, width=None, microbatch=7)
    distillation = Distillation(open_ones, method=Means)
    assert (distillation.config.batch_size, distillation.config.width) == (20, 5)
    assert distillation.recipe.method == Means(microbatch=7)


def test_a_preparation_without_prepare_is_one_sentence(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # no data is needed
    sentence = "method=Means names a preparation and has no `prepare`: write one, or let"
    with pytest.raises(ValueError, match=sentence):
        Means().prepare(None, None)  # pyright: ignore


def test_one_that_is_named_runs_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "my_methods", sys.modules[__name__])
    config = replace(TINY, method="my_methods:Means", out=tmp_path / "run")
    results = run(config)
    assert run(config) == results
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "Made by Means" in " ".join((tmp_path / "run" / "report.html").read_text().split())
    assert '"steps_before": 2.0' in lines and "accuracy" in lines  # of the learning curve


def test_one_that_another_package_brings_has_a_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "my_methods", sys.modules[__name__])
    point = EntryPoint("means", "my_methods:Means", _find.GROUP)
    found = "bilevel_distillation.networks._find.entry_points"
    monkeypatch.setattr(found, lambda group: [point] if group == _find.GROUP else [])
    assert _find.find_method(RunConfig(method="means").method) is Means
    with pytest.raises(ValueError, match="method='mean' is not known: choose one of .*, means, or"):
        RunConfig(method="mean")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("no_such_module:Means", "cannot be imported .*: name a class that Python finds"),
        ("json:Means", "cannot be imported"),
        (
            "json:JSONDecoder",
            "is no method: make a subclass of bilevel_distillation.AbstractMethod",
        ),
        ("magic", "method='magic' is not known: choose one of vig, .*, el2n, or name"),
    ],
)
def test_one_that_is_none_is_said_before_anything_is_computed(name, sentence):
    with pytest.raises(ValueError, match=sentence):
        _find.find_method(name)
