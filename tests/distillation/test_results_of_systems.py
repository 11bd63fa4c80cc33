"""Tables of all systems: seeds, judges, memory, the order beside the paper's, and attacks."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def section(monkeypatch, file, name):
    monkeypatch.syspath_prepend(str(DOCS))
    path = DOCS / "_results" / f"{file}.py"
    return runpy.run_path(str(path), run_name=f"_results.{file}")[name]


@pytest.fixture
def systems(monkeypatch):
    return section(monkeypatch, "_systems", "systems")


def record(method, seed, accuracy, **more):
    return dict(
        method=method, seed=seed, iterations=10, seconds=20.0, budget=20.0, clock="processor",
        judges={"paper": {"width": 4, "norm": "none", "steps": 9}},
        accuracies={"paper, soft": [accuracy, accuracy + 0.02]}, **more,
    )  # fmt: skip


def test_a_system_is_a_row_over_its_seeds_and_the_order_is_compared(systems):
    records = [record("rcig", 0, 0.8), record("rcig", 1, 0.9), record("dm", 0, 0.5),
               record("dsa", 0, 0.6), record("random", 0, 0.3)]  # fmt: skip
    found = {"records": records, "memory": {"dm": 12_400_000.0}}
    text = "\n".join(systems(lambda name: found if name == "systems_mnist_1" else None))
    assert "| rcig | 86.0 ± 5.0 | 20 (10) | – | 94.7 ± 0.5 |" in text
    assert "| dm | 51.0 | 20 (10) | 12 | 89.9 ± 0.8 |" in text
    assert text.index("| random") < text.index("| dm") < text.index("| rcig")  # ascending
    assert "1 to 2 seeds, 2 networks a set by each judge (paper: width 4, 9 steps)" in text
    assert "Of 3 pairs of systems in the paper's row, 2 stand in the same order here" in text
    assert "the other way round are dsa before dm." in text
    assert "digits, 1 image per class: not measured." in text


def test_sets_that_nobody_has_judged_yet_have_no_figures(systems):
    records = [record("dm", 0, 0.5) | {"accuracies": {}}]
    found = {"records": records, "memory": {}}
    text = "\n".join(systems(lambda name: found if name == "systems_digits_1" else None))
    assert "| dm | 20 (10) | – |\n" in text and "pairs" not in text


def test_networks_of_other_kinds_have_a_table_of_their_own(systems):
    records = [record("dm", 0, 0.6), record("random", 0, 0.3)]
    records[0]["judges"] = records[0]["judges"] | {"vgg11": {"width": None, "steps": 5}}
    records[0]["accuracies"] |= {"wide-instance, hard": [0.4], "vgg11, hard": [0.2, 0.3]}
    found = {"records": records, "memory": {}}
    text = "\n".join(systems(lambda name: found if name == "systems_digits_1" else None))
    first, second = text.split("the same sets by the networks of table 3, ")
    assert "| system | paper, soft | wide-instance, hard | seconds (iterations) | MB |" in first
    assert "| dm | 61.0 | 40.0 | 20 (10) | – |" in first and "vgg11" not in first
    assert "1 to 2 networks a set by each judge (paper: width 4, 9 steps)." in first
    assert second.startswith("2 networks a set by each judge (vgg11: width its own, 5 steps):")
    assert "| system | vgg11, hard |" in second and "| dm | 25.0 |" in second
    assert "the same sets" not in "\n".join(systems(lambda name: None))


def test_what_random_images_beat_is_said_by_the_seeds_that_both_have(systems):
    records = [record("random", 0, 0.3), record("random", 1, 0.9), record("bptt", 0, 0.3),
               record("dm", 0, 0.4), record("dm", 1, 0.9), record("dsa", 2, 0.1)]  # fmt: skip
    found = {"records": records, "memory": {}}
    text = "\n".join(systems(lambda name: found if name == "systems_digits_1" else None))
    assert text.count("Not better") == 1
    assert "Not better than random images: bptt (paper, soft)." in text
    found = {"records": records[3:], "memory": {}}
    assert "Not better" not in "\n".join(systems(lambda name: found))


def test_attacks_on_other_methods_stand_above_the_paper_s_figures(monkeypatch):
    attacks = section(monkeypatch, "_accuracy", "attacks")
    names = ("threshold", "logistic_regression", "mlp", "random_forest", "nearest_neighbours")
    auc = {name: 0.5 + 0.01 * i for i, name in enumerate(names)}
    networks = [dict(test_accuracy=a, auc=auc) for a in (0.8, 0.9)]
    kinds = dict.fromkeys(("distilled", "random_subset", "real_data"), networks)
    found = {"settings": {"steps": 9}, **kinds}
    assert "The other methods of the table: not measured." in attacks(lambda name: found)
    others = {"dm": {"settings": {"meta-iterations": 1500}, "distilled": networks}}
    text = "\n".join(attacks(lambda name: found | {"others": others}))
    assert "(meta-iterations: dm 1,500)" in text and "not measured" not in text
    _, ours, theirs = text.split("meta-iterations: dm")[1].rpartition("| dm |")
    assert ours + theirs.splitlines()[0] == (
        "| dm | 85.0 ± 5.0 | 0.50 ± 0.00 | 0.51 ± 0.00 | 0.52 ± 0.00 | 0.53 ± 0.00 | 0.54 ± 0.00 |"
    )
    assert theirs.splitlines()[1].startswith("| paper | 98.3 ± 0.0 | 0.50 ± 0.00 |")


def test_one_network_has_no_deviation(monkeypatch):
    accuracy = section(monkeypatch, "_accuracy", "accuracy")
    row = {"settings": {"width": 16}, "random subset, %": 50.0, "minutes": 1.0, "runs": {
        "0": {"accuracies": [0.6], "by the wide judge": [0.5, 0.7]}},
        "by the wide judge": {"width": 128}}  # fmt: skip
    text = "\n".join(accuracy(lambda name: {"rows": {"mnist/1": row}}))
    assert "| MNIST, 1 | 60.0 | 60.0 ± 10.0 | 94.7 ± 0.5 | 50.0 | 1 |" in text
    assert "width 16, networks 1 |" in text
    row["runs"]["1"] = {"accuracies": [0.8], "by the wide judge": [0.6, 0.6]}
    text = "\n".join(accuracy(lambda name: {"rows": {"mnist/1": row}}))
    assert "| MNIST, 1 | 70.0 ± 10.0 | 60.0 ± 7.1 |" in text and "networks 2 |" in text
