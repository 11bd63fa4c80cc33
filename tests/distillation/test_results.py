"""What runs, evaluations and attacks found, as files hold it: today's and those of before."""

import json
from pathlib import Path

import pytest

from bilevel_distillation import Accuracies, AttackedNetwork, AttackResults, AttackSettings
from bilevel_distillation._artifacts import TRAINED_ON, Judges, RunFolder
from bilevel_distillation._judging import Evaluation, Ranking

BEFORE = {
    "results.json": {"distilled": [0.5, 0.75], "random_subset": [0.25]},
    "evaluations.json": [
        {"network": "convnet", "norm": "none", "distilled": [0.5]},
        {"network": "vgg11", "norm": "batch", "distilled": [1.0], "random_subset": [0.0]},
    ],
    "attack.json": {
        "settings": {"real_images": 9, "members": 8, "network": "convnet", "norm": "none",
                     "steps": 3, "real_steps": 4, "seed": 0},
        "distilled": [{"test_accuracy": 0.5, "auc": {"threshold": 0.5, "mlp": 0.625}}],
        "random_subset": [{"test_accuracy": 0.25, "auc": {"threshold": 1.0, "mlp": 0.75}}],
        "real_data": [],
    },
}  # fmt: skip
"""Files as the version before wrote them."""


@pytest.fixture
def folder(tmp_path):
    for name, value in BEFORE.items():
        (tmp_path / name).write_text(json.dumps(value, indent=2) + "\n")
    return RunFolder(tmp_path)


def test_files_of_before_are_read(folder):
    assert folder.read_results() == Accuracies((0.5, 0.75), (0.25,))
    assert folder.read_evaluations() == {
        Judges("convnet", "none"): Accuracies((0.5,)),
        Judges("vgg11", "batch"): Accuracies((1.0,), (0.0,)),
    }  # fmt: skip
    found = folder.read_attack()
    assert found is not None and found.settings.members == 8 and found.real_data == ()
    assert found.of("random_subset")[0].auc == {"threshold": 1.0, "mlp": 0.75}


def test_what_is_read_is_written_as_it_was(folder):
    before = {name: (folder.path / name).read_text() for name in BEFORE}
    results, attack = folder.read_results(), folder.read_attack()
    folder.keep_results(results)
    folder.keep_attack(attack)
    folder.keep_evaluations({})
    assert {name: (folder.path / name).read_text() for name in BEFORE} == before


def test_an_evaluation_takes_the_place_of_the_one_of_the_same_network(folder):
    folder.keep_evaluations({("vgg11", "none"): Accuracies((0.1,)),
                             ("convnet", "none"): Accuracies((0.9,), (0.8,))})  # fmt: skip
    assert json.loads(folder.evaluations.read_text()) == [
        {"network": "convnet", "norm": "none", "distilled": [0.9], "random_subset": [0.8]},
        BEFORE["evaluations.json"][1],
        {"network": "vgg11", "norm": "none", "distilled": [0.1]},
    ]


def test_judges_labels_and_recipes_are_evaluations_of_their_own(folder):
    named = Judges("convnet", "none", "paper", "hard", "own", True)
    folder.keep_evaluations({("convnet", "none"): Accuracies((0.9,)), named: Accuracies((0.1,))})
    assert json.loads(folder.evaluations.read_text())[::2] == [
        {"network": "convnet", "norm": "none", "distilled": [0.9]},
        {"network": "convnet", "norm": "none", "judge": "paper", "labels": "hard", "recipe": "own",
         "select": True, "distilled": [0.1]},
    ]  # fmt: skip
    assert folder.read_evaluations()[named] == Accuracies((0.1,))
    assert str(named) == (
        "convnet, norm: none, judge: paper, hard labels, own recipe, selected on held-out images"
    )


def test_an_attack_grows_network_by_network():
    settings = AttackSettings(9, 8, "convnet", "none", 3, 4, 0)
    one = AttackedNetwork(0.5, {"mlp": 0.5})
    begun = AttackResults(settings)
    grown = begun.with_one_more("real_data", one).with_one_more("real_data", one)
    assert [len(grown.of(kind)) for kind in TRAINED_ON] == [0, 0, 2] and begun.real_data == ()
    assert AttackResults.from_json(json.loads(json.dumps(grown.to_json()))) == grown


def test_an_evaluation_writes_itself():
    ranking = Ranking(*(i / 8 for i in range(8)))
    plain = Evaluation("convnet", "none", Accuracies((0.5,)))
    assert plain.to_json() == {"network": "convnet", "norm": "none", "distilled": [0.5]}
    held = Evaluation("vgg11", "batch", Accuracies((0.5,), (0.25,)), ranking).to_json()
    assert held["random_subset"] == [0.25] and held["ranking"]["full_hard"] == 3 / 8
    assert json.loads(json.dumps(held)) == held


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("results.json", {}, "distilled is no list of accuracies"),
        ("results.json", {"distilled": [1.5]}, "distilled holds 1.5, which is no accuracy"),
        ("results.json", {"distilled": [1.0], "random_subset": []}, "random_subset is no list"),
        ("evaluations.json", {}, "it is no list"),
        ("evaluations.json", [{"network": 1, "norm": "none", "distilled": [1.0]}], "names no net"),
        ("evaluations.json", [BEFORE["evaluations.json"][0] | {"judge": 3}], "what is no word"),
        ("attack.json", BEFORE["attack.json"] | {"settings": {"members": "all"}}, "members is no"),
        ("attack.json", BEFORE["attack.json"] | {"real_data": None}, "real_data is no list"),
        ("attack.json", BEFORE["attack.json"] | {"real_data": [{"test_accuracy": 0.5, "auc": {}}]},
         "attackers differ"),
    ],
)  # fmt: skip
def test_what_is_none_of_these_is_said(folder, name, value, reason):
    (folder.path / name).write_text(json.dumps(value))
    read = {"results.json": folder.read_results, "evaluations.json": folder.read_evaluations,
            "attack.json": folder.read_attack}[name]  # fmt: skip
    with pytest.raises(ValueError, match=f"{Path(name)}' .*{reason}"):
        read()
