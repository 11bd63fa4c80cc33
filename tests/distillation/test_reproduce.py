"""The benchmark that fills the rows of the paper's tables."""

import importlib
import json
from functools import partial
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def reproduce(monkeypatch, tmp_path):
    """The benchmark with the digits for its only row, and judges that train for eight steps."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("reproduce")
    monkeypatch.setattr(importlib.import_module("_report"), "RESULTS", tmp_path)
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(module, "PAPER", {"digits": {1: 5.0}})
    monkeypatch.setattr(module, "ROWS", ("digits/1",))
    monkeypatch.setattr(module, "EvaluationConfig", partial(module.EvaluationConfig, steps=8))
    return module


def test_a_row_is_judged_by_its_own_network_and_by_a_wide_one(
    reproduce, tmp_path, capsys, monkeypatch
):
    asked = partial(
        reproduce.Arguments, rows=("digits/1",), iterations=2, width=2, batch_size=8, points=1,
        repeats=1, judge_width=7, judge_repeats=2, out=tmp_path / "runs",
    )  # fmt: skip
    widths, evaluate = [], reproduce.reevaluate
    monkeypatch.setattr(
        reproduce, "reevaluate", lambda one: (widths.append(one.evaluation.width), evaluate(one))[1]
    )
    reproduce.main(asked())
    reproduce.main(asked(seeds=(0, 1)))  # the first is held: no work is done twice
    assert widths == [7, 7]
    row = json.loads((tmp_path / "reproduce.json").read_text())["rows"]["digits/1"]
    first, second = row["runs"]["0"], row["runs"]["1"]
    assert row["settings"]["width"] == 2 and row["settings"]["seeds"] == 2
    assert row["accuracy, %"] == pytest.approx(
        50 * (first["accuracies"][0] + second["accuracies"][0])
    )
    wide = row["by the wide judge"]
    assert (wide["width"], wide["networks"]) == (7, 4)
    seen = [*first["by the wide judge"], *second["by the wide judge"]]
    assert wide["accuracy, %"] == pytest.approx(25 * sum(seen)) and len(set(seen)) > 1
    assert first["iterations"] == 2 and first["processor minutes"] > 0
    assert "--judge-width 7" in row["command"] and "--seeds 0 1" in row["command"]
    assert f"{wide['accuracy, %']:.4g}" in capsys.readouterr().out


def test_the_time_of_a_run_that_was_stopped_counts(reproduce, tmp_path):
    path = tmp_path / "runs" / "0.seconds"
    with pytest.raises(KeyboardInterrupt), reproduce.processor_time(path):
        raise KeyboardInterrupt
    assert float(path.read_text()) >= 0
    path.write_text("60.0\n")
    with reproduce.processor_time(path) as spent:
        assert spent() >= 60
