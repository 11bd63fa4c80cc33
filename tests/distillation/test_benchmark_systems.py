"""The comparison of systems: sets are made once, judged by each judge, and nothing twice."""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def systems(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("systems")
    monkeypatch.setattr(importlib.import_module("_report"), "RESULTS", tmp_path)
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setitem(module.SIZES, "digits", dict(width=2, depth=1, batch_size=20))
    return module


def test_what_is_there_is_neither_made_nor_judged_again(systems, tmp_path, monkeypatch):
    asked = dict(
        seconds=1e9, seeds=(0, 1), methods=("random",), labels=("soft", "hard"), steps=2,
        networks=1, width=2, out=tmp_path / "sets",
    )  # fmt: skip
    systems.main(systems.Arguments(judges=(), **asked))
    path = tmp_path / "systems_digits_1.json"
    first = json.loads(path.read_text())["records"]
    assert [(r["method"], r["seed"], r["accuracies"]) for r in first] == [
        ("random", 0, {}), ("random", 1, {}),
    ]  # fmt: skip
    monkeypatch.setattr(systems, "race", None)
    systems.main(systems.Arguments(judges=("paper",), **asked))
    second = json.loads(path.read_text())["records"]
    for record in second:
        assert list(record["accuracies"]) == ["paper, soft", "paper, hard"]
        assert record["accuracies"]["paper, soft"] == record["accuracies"]["paper, hard"]
        assert record["judges"]["paper"] == {"width": 2, "norm": "none", "steps": 2}
    monkeypatch.setattr(systems, "judge", None)
    systems.main(systems.Arguments(judges=("paper",), **asked))
    assert json.loads(path.read_text())["records"] == second


def test_a_lost_set_is_made_again(systems, tmp_path):
    arguments = systems.Arguments(methods=("random",), seeds=(0,), judges=(), out=tmp_path / "sets")
    systems.main(arguments)
    path = systems.set_of(arguments, "random", 0)
    path.unlink()
    systems.main(arguments)
    assert path.exists()
    records = json.loads((tmp_path / "systems_digits_1.json").read_text())["records"]
    assert len(records) == 1


def test_sets_of_another_size_are_not_joined(systems, tmp_path, monkeypatch):
    arguments = systems.Arguments(methods=("random",), seeds=(0,), judges=(), out=tmp_path / "sets")
    systems.main(arguments)
    before = (tmp_path / "systems_digits_1.json").read_text()
    monkeypatch.setitem(systems.SIZES, "digits", dict(width=4, depth=1, batch_size=20))
    with pytest.raises(SystemExit, match="not sets of {'width': 4"):
        systems.main(arguments)
    assert (tmp_path / "systems_digits_1.json").read_text() == before


def test_each_process_compiles_a_method_once_before_its_clock_starts(
    systems, tmp_path, monkeypatch
):
    pilots = []
    pilot = systems.pilot

    def counted(arguments, data, config):
        pilots.append(config.seed)
        return pilot(arguments, data, config)

    monkeypatch.setattr(systems, "pilot", counted)
    asked = dict(methods=("dm",), judges=(), seconds=0.2, out=tmp_path / "sets")
    systems.main(systems.Arguments(seeds=(0, 1), **asked))
    assert pilots == [0]
    systems.main(systems.Arguments(seeds=(2,), **asked))
    assert pilots == [0, 2], "a further process knows the length, and compiles all the same"
    records = json.loads((tmp_path / "systems_digits_1.json").read_text())["records"]
    assert len({record["planned"] for record in records}) == 1
