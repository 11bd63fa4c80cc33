"""The page's tables of all systems: seeds, judges, memory, and the order beside the paper's."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def systems(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    path = DOCS / "_results" / "_systems.py"
    return runpy.run_path(str(path), run_name="_results._systems")["systems"]


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
    assert "| rcig | 86.0 ± 5.0 | 10 | 20 | – | 94.7 ± 0.5 |" in text
    assert "| dm | 51.0 | 10 | 20 | 12 | 89.9 ± 0.8 |" in text
    assert text.index("| random") < text.index("| dm") < text.index("| rcig")  # ascending
    assert "1 to 2 seeds, 2 networks a set by each judge (paper: width 4, 9 steps)" in text
    assert "Of 3 pairs of systems in the paper's row, 2 stand in the same order here" in text
    assert "the other way round are dsa before dm." in text
    assert "digits, 1 image per class: not measured." in text


def test_sets_that_nobody_has_judged_yet_have_no_figures(systems):
    records = [record("dm", 0, 0.5) | {"accuracies": {}}]
    found = {"records": records, "memory": {}}
    text = "\n".join(systems(lambda name: found if name == "systems_digits_1" else None))
    assert "| dm | 10 | 20 | – |\n" in text and "pairs" not in text
