"""Membership inference: what leaks is found, what does not leak is not, nothing is lost."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bilevel_distillation import (
    AttackConfig,
    AttackedNetwork,
    AttackResults,
    AttackSettings,
    EvaluationConfig,
    Reporter,
    RunConfig,
    attack,
    report,
    run,
)
from bilevel_distillation._app._cli import main
from bilevel_distillation._app._console import attack_table
from bilevel_distillation._artifacts import TRAINED_ON, RunFolder
from bilevel_distillation._engine._distillation import load_data
from bilevel_distillation._judging._attack import ATTACKS, features, membership_auc
from bilevel_distillation.data import load, sample

TINY = RunConfig(
    dataset="digits", method="frepo", samples=205, seed=3, iterations=2, batch_size=16, width=4,
    depth=2, pool_size=2, pool_steps=1, curve_points=1,
    evaluation=EvaluationConfig(repeats=1, steps=2),
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    run(replace(TINY, out=out))
    return out


@pytest.fixture
def unattacked(finished):
    """The run, with no attack in it."""
    (finished / "attack.json").unlink(missing_ok=True)
    return finished


def answers(rng, count, *, right=0.0):
    """An attacker's view of noisy outputs, `right` of the way to the true label."""
    labels = rng.integers(0, 10, count)
    outputs = rng.normal(0, 0.1, (count, 10)) + right * np.eye(10)[labels]
    return features(outputs.astype(np.float32), labels)


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_is_found_where_members_and_others_are_alike(name):
    rng = np.random.default_rng(0)
    found = [membership_auc(name, answers(rng, 400), answers(rng, 400)) for _ in range(3)]
    assert abs(np.mean(found) - 0.5) < 0.05  # its deviation is 0.02 / sqrt(3)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_planted_leak_is_found(name):
    rng = np.random.default_rng(1)
    assert membership_auc(name, answers(rng, 300, right=1.0), answers(rng, 300)) > 0.95
    # The other way round is found by those that learn, and not by the threshold.
    turned = membership_auc(name, answers(rng, 300), answers(rng, 300, right=1.0))
    assert turned < 0.05 if name == "threshold" else turned > 0.95


def test_an_attacker_sees_sorted_outputs_and_the_squared_error():
    outputs = np.array([[0.1, 0.5, -0.2]], np.float32)
    (seen,) = features(outputs, np.array([1]))
    error = 0.5 * ((0.1 + 1 / 3) ** 2 + (0.5 - 2 / 3) ** 2 + (-0.2 + 1 / 3) ** 2)
    np.testing.assert_allclose(seen, [0.5, 0.1, -0.2, error], rtol=1e-6)


def test_a_run_sees_its_samples_alone_and_they_are_the_members(unattacked, monkeypatch):
    from bilevel_distillation._judging import _attack

    whole, part = load("digits"), load_data(TINY)
    assert np.bincount(part.train_labels).tolist() == [21] * 5 + [20] * 5
    pictures = {image.tobytes() for image in part.train_images}
    assert len(pictures) == 205 and pictures <= {i.tobytes() for i in whole.train_images}
    again, other = (sample(whole, 205, seed) for seed in (3, 4))
    np.testing.assert_array_equal(again.train_images, part.train_images)
    assert other.train_images.tobytes() != part.train_images.tobytes()
    np.testing.assert_array_equal(part.test_images, whole.test_images)

    seen = []
    outputs = _attack._outputs
    monkeypatch.setattr(_attack, "_outputs", lambda net, x: seen.append(x) or outputs(net, x))
    results = attack(AttackConfig(unattacked, repeats=1))
    config = json.loads((unattacked / "config.json").read_text())
    assert config["samples"] == 205 and results.settings.members == 205
    preprocess = _attack.DistilledSet.load_npz(unattacked / "distilled.npz").preprocessor
    np.testing.assert_array_equal(seen[0], preprocess(part.train_images))
    np.testing.assert_array_equal(seen[1], preprocess(part.test_images))


def test_an_attack_that_was_stopped_goes_on_to_the_same_figures(unattacked):
    class Crash(Reporter):
        def __init__(self, after):
            self.left, self.steps = after, []

        def begin(self, description, total, done):
            self.steps.append((total, done))

        def advance(self, count, **figures):
            self.left -= count
            if not self.left:
                raise RuntimeError("the power went off")

    asked = AttackConfig(unattacked, repeats=2, steps=3, real_steps=4)
    whole = attack(asked)
    assert [len(whole.of(kind)) for kind in TRAINED_ON] == [2, 2, 2]
    assert all(set(one.auc) == set(ATTACKS) for one in whole.real_data)
    (unattacked / "attack.json").unlink()
    with pytest.raises(RuntimeError, match="power"):
        attack(asked, Crash(2))
    reporter = Crash(100)
    assert attack(asked, reporter) == whole
    assert reporter.steps == [(6, 2)] and reporter.left == 96
    held = json.loads((unattacked / "attack.json").read_text())
    assert held == whole.to_json() and list(held) == ["settings", *TRAINED_ON]
    assert list(held["settings"]) == ["real_images", "members", "network", "norm", "steps",
                                      "real_steps", "seed"]  # fmt: skip
    assert held["real_data"][1] == {
        "test_accuracy": whole.real_data[1].test_accuracy, "auc": dict(whole.real_data[1].auc)
    }  # fmt: skip
    assert not list(unattacked.glob("*.partial"))


def test_some_kinds_of_training_data_can_be_asked_alone_and_others_later(
    unattacked, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "200")
    asked = AttackConfig(unattacked, repeats=1, steps=1)
    main(["attack", str(unattacked), "--repeats", "1", "--steps", "1", "--trained-on", "distilled"])
    said = capsys.readouterr().out
    assert "distilled set" in said and "random subset" not in said and "real data" not in said
    page = report(unattacked).read_text(encoding="utf-8")
    assert ">distilled</th>" in page and ">real data</th>" not in page
    alone = RunFolder(unattacked).read_attack()
    assert [len(alone.of(kind)) for kind in TRAINED_ON] == [1, 0, 0] and "real" not in str(alone)
    whole = attack(asked)
    assert [len(whole.of(kind)) for kind in TRAINED_ON] == [1, 1, 1]
    assert whole.distilled == alone.distilled
    (unattacked / "attack.json").unlink()
    assert attack(replace(asked, trained_on=("real_data",))).real_data == whole.real_data


def test_one_process_attacks_at_a_time(unattacked):
    lock = RunFolder(unattacked).lock_attack()
    assert lock is not None
    with pytest.raises(ValueError, match="another process is attacking this run: wait for it"):
        attack(AttackConfig(unattacked, repeats=1, steps=1))
    lock.release()


def test_the_command_prints_the_table_and_the_page_shows_it(unattacked, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert "Privacy" not in report(unattacked).read_text(encoding="utf-8")
    main(["attack", str(unattacked), "--repeats", "1", "--steps", "1"])
    said = capsys.readouterr().out
    results = json.loads((unattacked / "attack.json").read_text())
    assert "run: members or not" in said and f"all figures: {unattacked / 'attack.json'}" in said
    assert f"{results['distilled'][0]['auc']['random_forest']:.2f} │" in said
    page = report(unattacked).read_text(encoding="utf-8")
    assert "<h2>Privacy</h2>" in page and '<th scope="row">nearest neighbours</th>' in page
    assert f"{results['real_data'][0]['auc']['mlp']:.2f}</td>" in page
    assert "205 of the real images" in page
    (unattacked / "attack.json").write_text("[]")
    with pytest.raises(ValueError, match=r"attack.json' is damaged .*: delete"):
        report(unattacked)


def test_the_table_has_a_row_for_each_attacker():
    one = AttackedNetwork(test_accuracy=0.5, auc=dict.fromkeys(ATTACKS, 0.25))
    settings = AttackSettings(205, 205, "convnet", "none", steps=1, real_steps=1, seed=0)
    table = attack_table(AttackResults(settings, (one, one), (one, one), (one, one)), "title")
    cells = [list(column.cells) for column in table.columns]
    names = ["threshold", "logistic regression", "MLP", "random forest", "nearest neighbours"]
    assert cells[0] == [*names, "test accuracy", "networks"]
    assert cells[1] == cells[3] == ["0.25 ± 0.00"] * 5 + ["50.0 ± 0.0 %", "2"]


def test_mistakes_are_said(unattacked, tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        attack(AttackConfig(tmp_path))
    with pytest.raises(ValueError, match="real_steps=0 is too small: give 1 or more"):
        AttackConfig(tmp_path, real_steps=0)
    with pytest.raises(ValueError, match="trained_on='guess' is not known: choose one of distil"):
        AttackConfig(tmp_path, trained_on=("guess",))
    with pytest.raises(ValueError, match=r"trained_on=\(\) names none: give e.g. distilled"):
        AttackConfig(tmp_path, trained_on=())
    with pytest.raises(ValueError, match="5 members and as many held-out .* are too few"):
        membership_auc("mlp", np.zeros((5, 3)), np.zeros((50, 3)))
    with pytest.raises(ValueError, match="'guess' is not known: choose one of threshold, "):
        membership_auc("guess", np.zeros((50, 3)), np.zeros((50, 3)))
    attack(AttackConfig(unattacked, repeats=1, steps=1))
    with pytest.raises(ValueError, match=r"\(steps is 1 there and 2 here; real_steps is 1 .*move"):
        attack(AttackConfig(unattacked, repeats=1, steps=2))
    (unattacked / "attack.json").write_text('{"settings": {}}')
    with pytest.raises(ValueError, match="is damaged .*: delete it"):
        attack(AttackConfig(unattacked, repeats=1, steps=1))
    (unattacked / "distilled.npz").rename(tmp_path / "away.npz")
    try:
        with pytest.raises(ValueError, match="not finished: run it to its end"):
            attack(AttackConfig(unattacked))
    finally:
        (tmp_path / "away.npz").rename(unattacked / "distilled.npz")


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        (9, "samples=9 is fewer than the 10 classes of 'digits': give at least one"),
        (1200, "samples=1200 takes 120 training images of each class, and class '0' of 'digits' "
               "has 119: give at most 1160, or leave samples out"),
    ],
)  # fmt: skip
def test_samples_that_cannot_be_had_are_said(samples, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_data(replace(TINY, samples=samples))
