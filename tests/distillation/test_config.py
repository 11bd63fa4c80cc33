"""Settings: written and read back, checked, and filled in as facts.md has them."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from bilevel_distillation import (
    Accuracies,
    EvaluateConfig,
    Evaluation,
    EvaluationConfig,
    Evaluations,
    RunConfig,
    resolve,
)
from bilevel_distillation._config import differences, from_json, to_json

WHERE = Path("runs/one/config.json")


def test_configs_come_back_from_json_as_they_were():
    config = RunConfig(
        dataset="mnist", out=Path("runs/x"), zca=False, ridge_rate=1e-3, train_split="train",
        evaluation=EvaluationConfig(
            repeats=2, steps=7, network="vgg11", norm="batch", augment=True, labels="hard"
        ),
    )  # fmt: skip
    for one in (RunConfig(), config, resolve(config, (28, 28, 1))):
        assert from_json(to_json(one), WHERE) == one
    assert set(json.loads(to_json(config))) == {f.name for f in fields(RunConfig)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"widht": 3}, "widht"),
        ({"ipc": "many"}, "ipc"),
        ({"method": "magic"}, "method"),
        ({"zca": "perhaps", "width": []}, "width"),
        ({"evaluation": {"repeats": None}}, "repeats"),
        ({"ipc": 0}, "ipc=0 is too small"),
        ({"devices": 1.5}, "devices=1.5"),
        ({"evaluation": {"network": "vgg"}}, "network"),
    ],
)
def test_what_is_unknown_or_of_another_type_is_said(change, reason):
    text = json.dumps(json.loads(to_json(RunConfig())) | change)
    with pytest.raises(ValueError, match=r"^runs/one/config\.json is not a run's config") as error:
        from_json(text, WHERE)
    sentence = str(error.value)
    assert reason in sentence and "restore it, or give another --out." in sentence
    assert "\n" not in sentence


def test_the_words_of_the_version_before_are_read_as_those_of_today():
    before = json.loads(to_json(RunConfig())) | {"solve": "exact", "tolerance": 0.3}
    before |= {"max_cg_steps": 7, "most_pool_steps": 9}
    for name in ("rtol", "adjoint_rtol", "cg_max_steps", "pool_max_steps"):
        del before[name]
    found = from_json(json.dumps(before), WHERE)
    assert (found.solve, found.rtol, found.adjoint_rtol) == ("linear", 0.3, 0.3)
    assert (found.cg_max_steps, found.pool_max_steps) == (7, 9)


def test_a_config_that_is_no_json_is_said():
    with pytest.raises(ValueError, match="is not a run's config .*: restore it"):
        from_json('{"dataset": "dig', WHERE)


@pytest.mark.parametrize(
    ("dataset", "shape", "expected"),
    [
        ("digits", (8, 8, 1), dict(depth=2, padding=0, width=64, batch_size=256, zca=False,
                                   flip=False, smooth=True, ridge_rate=5e-4)),
        ("mnist", (28, 28, 1), dict(depth=3, padding=2, width=128, batch_size=1024, zca=False,
                                    flip=False, smooth=True, ridge_rate=5e-4)),
        ("fashion_mnist", (28, 28, 1), dict(depth=3, padding=2, zca=False, flip=False)),
        ("cifar10", (32, 32, 3), dict(depth=3, padding=0, width=128, batch_size=1024, zca=True,
                                      flip=True, smooth=True, ridge_rate=5e-4)),
        ("tiny_imagenet", (64, 64, 3), dict(depth=4, iterations=5_000, n_subset=None)),
        ("imagenette", (128, 128, 3), dict(depth=5, iterations=6_000, smooth=False)),
        ("imagenet64", (64, 64, 3), dict(depth=4, iterations=2_000, n_subset=500)),
        ("a/b", (64, 64, 3), dict(depth=4, padding=0, zca=True, smooth=False, ridge_rate=5e-3)),
        ("a/b", (128, 128, 3), dict(depth=5, smooth=False, ridge_rate=5e-2)),
    ],
)  # fmt: skip
def test_presets(dataset, shape, expected):
    found = resolve(RunConfig(dataset=dataset), shape)
    assert {name: getattr(found, name) for name in expected} == expected
    still_open = {f.name for f in fields(found) if getattr(found, f.name) is None}
    assert still_open <= {"microbatch", "n_subset", "image_column", "label_column", "train_split",
                          "test_split", "resolution", "samples", "held_out"}  # fmt: skip


def test_the_paper_takes_fewer_iterations_for_more_images():
    asked = [RunConfig(dataset="cifar10", ipc=ipc) for ipc in (1, 10, 50, 7)]
    found = [resolve(config, (32, 32, 3)).iterations for config in asked]
    assert found == [15_000, 10_000, 5_000, 5_000]


@pytest.mark.parametrize(("ipc", "subset"), [(1, None), (10, None), (50, 2_000)])
def test_large_coresets_are_subsampled_as_in_the_paper(ipc, subset):
    found = resolve(RunConfig(dataset="cifar100", ipc=ipc), (32, 32, 3), 100)
    assert found.n_subset == subset


@pytest.mark.parametrize(("solve", "rate", "decay"), [("linear", 3e-2, 0.1), ("adam", 3e-3, 1.0)])
def test_the_rate_of_the_coreset_follows_the_solve(solve, rate, decay):
    found = resolve(RunConfig(solve=solve), (8, 8, 1))
    assert (found.coreset_rate, found.coreset_decay) == (rate, decay)
    assert resolve(RunConfig(solve=solve, coreset_rate=1.0), (8, 8, 1)).coreset_rate == 1.0


def test_what_depends_on_the_number_of_images_counts_all_classes():
    for ipc, classes, steps, flip in [
        (1, 10, 1000, True), (5, 2, 1000, True), (1, 100, 2000, True), (10, 10, 2000, True),
        (10, 100, 2000, True), (11, 100, 2000, False), (1, 1000, 2000, True),
        (1, 1001, 2000, False),
    ]:  # fmt: skip
        found = resolve(RunConfig(dataset="cub200", ipc=ipc), (32, 32, 3), classes)
        assert (found.evaluation.steps, found.flip) == (steps, flip), (ipc, classes)


def test_mirror_images_are_taken_of_images_alone_that_are_known_to_allow_them():
    for name, shape in (("a/b", (32, 32, 3)), ("photos", (32, 32, 3)), ("mnist", (28, 28, 1)),
                        ("cifar10", (28, 28, 1))):  # fmt: skip
        assert resolve(RunConfig(dataset=name), shape).flip is False
        assert resolve(RunConfig(dataset=name, flip=True), shape).flip is True


def test_what_is_given_stays():
    asked = RunConfig(
        dataset="cifar10", zca=False, flip=False, width=8, padding=0, iterations=3, ridge_rate=1.0,
        evaluation=EvaluationConfig(steps=5, learning_rate=1e-3),
    )  # fmt: skip
    found = resolve(asked, (32, 32, 3))
    for f in fields(asked):
        if getattr(asked, f.name) is not None:
            assert getattr(found, f.name) == getattr(asked, f.name), f.name
    assert resolve(found, (32, 32, 3)) == found


def test_differences_name_setting_and_values_but_not_the_folder():
    one = RunConfig()
    assert differences(one, replace(one, out=Path("elsewhere"), checkpoint_seconds=1.0)) == []
    other = replace(one, seed=3, evaluation=EvaluationConfig(repeats=2))
    said = differences(one, other)
    assert said[0] == "seed is 3 there and 0 here"
    assert said[1].startswith("evaluation is ") and len(said) == 2


def test_an_evaluation_is_one_for_each_network_with_each_normalisation():
    short = EvaluateConfig(WHERE, repeats=3, width=8, network=("vgg11",), labels="hard")
    assert short.evaluations() == [
        EvaluationConfig(repeats=3, width=8, network="vgg11", labels="hard")
    ]
    with pytest.raises(TypeError, match="unexpected keyword argument 'wdith'"):
        EvaluateConfig(WHERE, wdith=8)
    both = EvaluateConfig(WHERE, judge=("paper", "wide-instance"), labels=("soft", "hard"), width=8)
    assert both.evaluations() == [
        EvaluationConfig(judge=judge, labels=labels, width=8)
        for judge in ("paper", "wide-instance") for labels in ("soft", "hard")
    ]  # fmt: skip
    assert EvaluateConfig(WHERE).evaluations() == [EvaluationConfig()]
    one = EvaluationConfig(network="vgg11", norm="batch", steps=7)
    assert EvaluateConfig(WHERE, evaluation=one).evaluations() == [one]
    several = EvaluateConfig(WHERE, network=("alexnet", "vgg11"), evaluation=one)
    assert several.evaluations() == [replace(one, network="alexnet"), one]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: EvaluationConfig(repeats=0), "evaluation.repeats=0 is too small: give 1 or"),
        (lambda: EvaluationConfig(steps=0), "evaluation.steps=0 is too small: give 1 or more."),
        (lambda: EvaluationConfig(warmup=-1), "evaluation.warmup=-1 is negative: give 0 or more."),
        (lambda: EvaluationConfig(learning_rate=0.0), "evaluation.learning_rate=0.0 is not posi"),
        (lambda: EvaluationConfig(width=0), "evaluation.width=0 is too small: give 1 or more."),
        (lambda: EvaluateConfig(WHERE, network=()), "network=() names none: give e.g. convnet."),
        (
            lambda: EvaluateConfig(WHERE, judge=("paper",), norm=("batch",)),
            "norm='batch' beside judge='paper', which brings its own network: leave one",
        ),
        (lambda: EvaluateConfig(WHERE, recipe=()), "recipe=() names none: give e.g. common."),
        (
            lambda: EvaluationConfig(judge="paper", network="vgg11"),
            "evaluation.network='vgg11' is not that of evaluation.judge='paper': leave",
        ),
        (lambda: RunConfig(held_out=0), "held_out=0 is too small: give 1 or more."),
        (lambda: EvaluateConfig(WHERE, full_steps=0), "full_steps=0 is too small: give 1 or more."),
        (lambda: RunConfig(rtol=-1.0), "rtol=-1.0 is not positive"),
        (lambda: RunConfig(n_subset=0), "n_subset=0 is too small"),
        (lambda: RunConfig(coreset_rate=float("nan")), "coreset_rate=nan is not positive"),
        (lambda: RunConfig(width=0), "width=0 is too small"),
    ],
)
def test_settings_out_of_range_are_said(make, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        make()


def test_a_single_evaluation_has_its_accuracies_by_name():
    one = Evaluation("convnet", "none", Accuracies((0.5, 0.6)))
    assert Evaluations([one])["distilled"] == [0.5, 0.6]
    several = Evaluations([one, one])
    assert several[1] is one and several[:1] == [one]
    with pytest.raises(KeyError, match="'distilled' of which of 2 evaluations: take one"):
        several["distilled"]
