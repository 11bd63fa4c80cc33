"""A run that begins with a set made before, by whomever."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bilevel_distillation import (
    Distillation,
    DistilledSet,
    EvaluationConfig,
    RunConfig,
    export,
    run,
)
from bilevel_distillation.data import ImageData

TINY = RunConfig(
    dataset="digits", method="frepo", iterations=2, batch_size=16, width=2, depth=1, pool_size=1,
    pool_steps=1, curve_points=1, checkpoint_seconds=0.0,
    evaluation=EvaluationConfig(repeats=1, steps=2),
)  # fmt: skip


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A complete run's folder."""
    out = tmp_path_factory.mktemp("runs") / "first"
    run(replace(TINY, out=out))
    return out


def begun(path, **changes):
    return Distillation(replace(TINY, init=str(path), **changes))


@pytest.mark.parametrize("form", ["run", "hf", "npz", "file"])
def test_it_begins_where_the_other_ended(form, first, tmp_path):
    distilled = DistilledSet.load_npz(first / "distilled.npz")
    path = {"run": first, "hf": first / "dataset", "npz": tmp_path, "file": tmp_path / "set.npz"}[
        form
    ]
    if form == "npz":
        export(distilled, tmp_path, "npz")
    if form == "file":
        distilled.save_npz(path)
    found = begun(path).distilled()
    np.testing.assert_array_equal(found.images, distilled.images)
    np.testing.assert_array_equal(found.labels, distilled.labels)
    assert found.log_temperature == pytest.approx(distilled.log_temperature)
    assert found.provenance["begun_from"] == distilled.provenance


def test_the_chain_and_its_cost_add_up(first, tmp_path):
    second = tmp_path / "second"
    run(replace(TINY, method="rcig", init=str(first), out=second))
    third = begun(second)
    third.step()
    known = third.distilled().provenance
    chain = [known, known["begun_from"], known["begun_from"]["begun_from"]]
    assert [one["method"] for one in chain] == ["frepo", "rcig", "frepo"]
    assert chain[0]["seconds"] >= chain[1]["seconds"] >= chain[2]["seconds"] > 0
    assert chain[0]["seconds"] == pytest.approx(chain[1]["seconds"] + third.seconds, abs=0.11)
    assert chain[1]["begun_from"] == DistilledSet.load_npz(first / "distilled.npz").provenance


def test_a_run_goes_on_where_the_first_set_is_gone(first, tmp_path):
    copy, out = tmp_path / "set.npz", tmp_path / "run"
    DistilledSet.load_npz(first / "distilled.npz").save_npz(copy)
    config = replace(TINY, init=str(copy), out=out)
    results = run(config)
    copy.unlink()
    for name in ("results.json", "distilled.npz", "report.html"):
        (out / name).unlink()
    assert run(config) == results
    assert json.loads((out / "config.json").read_text())["init"] == str(copy)


def test_one_made_elsewhere_is_taken_as_preprocessed_here(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.eye(10, dtype=np.float32)[np.arange(10)[::-1]] - 0.1
    images = rng.normal(size=(10, 8, 8, 1)).astype(np.float32)
    np.savez(tmp_path / "elsewhere.npz", x_proto=images, y_proto=labels)
    found = begun(tmp_path / "elsewhere.npz")
    np.testing.assert_array_equal(found.distilled().images, images[::-1])
    np.testing.assert_array_equal(found.distilled().classes, np.arange(10))
    assert found.distilled().provenance["begun_from"] == {"source": "elsewhere.npz"}
    found.step()


def other_data(shape=(8, 8, 1), classes=10):
    rng = np.random.default_rng(0)
    labels = np.arange(4 * classes) % classes
    images = rng.integers(0, 256, (4 * classes, *shape), dtype=np.uint8)
    names = tuple(f"class {i}" for i in range(classes))
    return ImageData("others", images, labels, images[:6], labels[:6], names)


@pytest.mark.parametrize(
    ("changes", "data", "sentence"),
    [
        (dict(ipc=2), None, "init=.* holds 1 images of a class, and ipc=2 asks for others: g"),
        (dict(zca=True), None, "zca=True is not how the images of init=.* were .*: leave z"),
        (
            {},
            other_data((4, 4, 1)),
            r"init=.* holds images of shape \(8, 8, 1\) and 10 classes, bu",
        ),
        (
            {},
            other_data(classes=3),
            "and 10 classes, but dataset='others' has .* and 3: give a set",
        ),
        (dict(init="kmean"), None, "init='kmean' is neither a known beginning nor a path that exi"),
    ],
)
def test_what_does_not_fit_is_one_sentence(changes, data, sentence, first):
    config = replace(TINY, **{"init": str(first)} | changes)
    with pytest.raises(ValueError, match=sentence) as error:
        Distillation(config, data)
    assert "\n" not in str(error.value)


def test_a_run_that_is_not_finished_is_said(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a run that is not finished: run it to its end"):
        begun(tmp_path)
