"""Runs that a version before began: on to the same bits, or refused in one sentence."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bilevel_distillation import Distillation, EvaluationConfig, Reporter, RunConfig, run

TINY = RunConfig(
    dataset="digits", samples=60, batch_size=16, width=2, depth=1, pool_size=2, iterations=6,
    curve_points=1, checkpoint_seconds=0.0, evaluation=EvaluationConfig(repeats=1, steps=2),
)  # fmt: skip
NEW_SINCE = ("coreset_optimiser", "inner_steps", "inner_rate", "window", "networks")


class Crash(Reporter):
    def __init__(self, after: int):
        self.left = after

    def advance(self, count, **figures):
        self.left -= count
        if self.left <= 0:
            raise RuntimeError("the power went off")


def begin(config, monkeypatch):
    """As a version does that notes no arithmetic, and has fewer settings."""
    notes = Distillation.notes
    with monkeypatch.context() as patched:
        patched.setattr(
            Distillation,
            "notes",
            lambda self: {k: notes(self)[k] for k in ("seconds", "courses")},
        )
        with pytest.raises(RuntimeError, match="power"):
            run(config, Crash(3))
    path = config.out / "config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in settings.items() if k not in NEW_SINCE}))
    (config.out / "checksums.json").unlink()


def images(folder):
    with np.load(folder / "distilled.npz") as file:
        return file["images"].tobytes(), file["labels"].tobytes()


@pytest.mark.parametrize(
    "settings",
    [{"linear_solver": "cholesky"}, {"solve": "adam", "adam_steps": 2}],
)
def test_what_computes_as_before_goes_on_to_the_same_bits(settings, tmp_path, monkeypatch):
    config = replace(TINY, **settings)
    run(replace(config, out=tmp_path / "whole"))
    stopped = replace(config, out=tmp_path / "stopped")
    begin(stopped, monkeypatch)
    run(stopped)
    assert images(tmp_path / "stopped") == images(tmp_path / "whole")


@pytest.mark.parametrize("settings", [{"linear_solver": "cg"}, {"method": "rig"}])
def test_what_rounds_in_another_way_is_refused(settings, tmp_path, monkeypatch):
    config = replace(TINY, **settings, out=tmp_path / "run")
    begin(config, monkeypatch)
    before = {path: path.read_bytes() for path in config.out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"other last digits.*give another --out"):
        run(config)
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_setting_that_was_added_since_and_is_asked_for_is_another(tmp_path, monkeypatch):
    config = replace(TINY, out=tmp_path / "run")
    begin(config, monkeypatch)
    with pytest.raises(ValueError, match=r"settings \(coreset_optimiser is 'adabelief' there"):
        run(replace(config, coreset_optimiser="adam"))
