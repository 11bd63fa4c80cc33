"""Chosen real images are those that each way of choosing claims, and make a set like any other."""

import numpy as np
import pytest

from bilevel_distillation import (
    EL2N,
    Distillation,
    EvaluationConfig,
    Herding,
    KCenter,
    RunConfig,
    load_hf,
    run,
)
from bilevel_distillation._methods import AbstractChoice
from bilevel_distillation.data import load
from bilevel_distillation.engine import estimate

NAMES = ["random", "herding", "k-center", "el2n"]
TINY = RunConfig(
    ipc=3, width=3, depth=1, curve_points=1, evaluation=EvaluationConfig(repeats=1, steps=2)
)


@pytest.fixture(scope="module")
def features():
    """Of 30 images, and their errors."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(30, 5)) + 1.0, rng.uniform(size=30)


def test_herding_follows_the_mean(features):
    x, errors = features
    rows = Herding().pick(x, errors, 8)
    assert len(set(rows.tolist())) == 8
    mean = x.mean(0)
    for k in range(8):
        rest = [i for i in range(30) if i not in rows[:k]]
        gaps = [np.linalg.norm(mean - x[[*rows[:k], i]].mean(0)) for i in rest]
        assert rest[int(np.argmin(gaps))] == rows[k]


def test_k_center_leaves_none_far_away(features):
    x, errors = features
    rows = KCenter().pick(x, errors, 6)
    assert len(set(rows.tolist())) == 6
    assert rows[0] == np.linalg.norm(x - x.mean(0), axis=1).argmin()
    for k in range(1, 6):
        nearest = np.linalg.norm(x[:, None] - x[rows[:k]], axis=2).min(1)
        assert nearest[rows[k]] == nearest.max()
    # Greedily it is at most twice as far as at best (Gonzalez, 1985), and any set is at least that.
    far = np.linalg.norm(x[:, None] - x[rows], axis=2).min(1).max()
    others = (np.random.default_rng(i).choice(30, 6, False) for i in range(50))
    best = min(np.linalg.norm(x[:, None] - x[o], axis=2).min(1).max() for o in others)
    assert far <= 2 * best


def test_el2n_takes_the_easiest(features):
    x, errors = features
    rows = EL2N().pick(x, errors, 5)
    assert sorted(errors)[:5] == errors[rows].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_set_of_real_images_of_each_class(name):
    data = load("digits")
    distillation = Distillation(RunConfig(**vars(TINY) | {"method": name}), data)
    found = distillation.distilled()
    np.testing.assert_array_equal(found.classes, np.repeat(np.arange(10), 3))
    np.testing.assert_array_equal(found.labels.argmax(1), found.classes)
    real = distillation.preprocessor(data.train_images)
    rows = [int(np.flatnonzero((real == one).all((1, 2, 3)))[0]) for one in found.images]
    assert len(set(rows)) == 30
    np.testing.assert_array_equal(data.train_labels[rows], found.classes)
    assert (found.provenance["method"], found.provenance["iterations"]) == (name, 0)


def test_the_choice_is_by_a_network_that_has_learned(monkeypatch):
    """Its errors on the images are smaller than a network's that knows nothing."""
    seen = []

    class Spy(AbstractChoice):
        def pick(self, features, errors, count):
            seen.append(errors.mean())
            return np.arange(count)

    Distillation(TINY, method=Spy).distilled()
    assert len(seen) == 10 and np.mean(seen) < 0.9 * np.sqrt(0.9)


def test_it_is_run_judged_exported_and_estimated_like_any_other(tmp_path):
    config = RunConfig(**vars(TINY) | {"method": "herding", "out": tmp_path / "run"})
    results = run(config)
    assert len(results.distilled) == 1 and run(config) == results
    assert load_hf(tmp_path / "run" / "dataset").provenance["method"] == "herding"
    assert "herding" in (tmp_path / "run" / "report.html").read_text()
    (tmp_path / "run" / "distilled.npz").unlink()
    (tmp_path / "run" / "results.json").unlink()
    assert run(config) == results
    assert str(estimate(config)).startswith("0 meta-iterations")


def test_no_iterations_leave_any_method_where_it_begins():
    one = Distillation(RunConfig(**vars(TINY) | {"method": "frepo", "iterations": 0}))
    other = Distillation(RunConfig(**vars(TINY) | {"method": "frepo", "iterations": 5}))
    assert one.total == 0
    np.testing.assert_array_equal(one.distilled().images, other.distilled().images)


def test_steps_are_refused():
    with pytest.raises(ValueError, match="iterations=7 is for methods that take steps, and .*el2n"):
        Distillation(RunConfig(**vars(TINY) | {"method": "el2n", "iterations": 7}))
