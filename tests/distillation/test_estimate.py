"""What nobody wants to wait for: said before, or at a run's start, with settings that take less."""

import re
from dataclasses import replace

import numpy as np
import pytest

from bilevel_distillation import Distillation, EvaluationConfig, Reporter, RunConfig, run
from bilevel_distillation._config import resolve
from bilevel_distillation._engine import _estimate
from bilevel_distillation._engine._estimate import LONG, SHORTER, advise, estimate
from bilevel_distillation.data import ImageData

SMALL = RunConfig(
    method="frepo", iterations=4, batch_size=16, width=2, depth=1, pool_size=1, pool_steps=1,
    curve_points=1, evaluation=EvaluationConfig(repeats=1, steps=1, warmup=0),
)  # fmt: skip
ADVICE = re.compile(
    r"by these settings it takes about (?P<long>[\d.]+ (h|days)), and about (?P<short>[\d.]+ min) "
    r"with(?P<resolution> --resolution 32)? --width (?P<width>\d+) --batch-size (?P<batch>\d+) "
    r"--iterations (?P<iterations>\d+), to begin with"
)


def own_set(n, size):
    images, labels = np.broadcast_to(np.uint8(0), (n, size, size, 3)), np.arange(n) % 3
    data = ImageData("own", images, labels, images[:3], labels[:3], ("a", "b", "c"))
    distillation = object.__new__(Distillation)  # of which no more is needed
    distillation.data = data
    distillation.config = resolve(RunConfig(dataset="own"), data.image_shape, data.classes)
    return distillation


@pytest.mark.parametrize("seconds", [2.0, 60.0])
@pytest.mark.parametrize(("n", "size"), [(144, 16), (20_000, 32), (144, 128)])
def test_hours_by_the_defaults_come_with_settings_that_take_minutes(n, size, seconds):
    distillation = own_set(n, size)
    total = distillation.config.iterations
    found = ADVICE.fullmatch(advise(distillation, seconds, total) or "")
    assert found is not None
    width, batch, iterations = (int(found[name]) for name in ("width", "batch", "iterations"))
    assert width == 32 and batch == min(256, n) and 100 <= iterations <= total
    assert (found["resolution"] is not None) == (size > 64)
    # What a meta-iteration must cost for the time that is promised; less than now, but no wonder.
    cost = float(found["short"].split()[0]) * 60 / iterations
    assert seconds / 100 < cost < seconds / 2
    assert iterations == 100 or cost * iterations <= 1.2 * SHORTER


def test_what_takes_minutes_is_not_advised_on():
    distillation = own_set(144, 16)
    assert advise(distillation, LONG / 1000, 999) is None
    assert advise(distillation, LONG / 1000, 1000) is not None


class Listener(Reporter):
    def __init__(self):
        self.said = []

    def say(self, message):
        self.said.append(message)

    def advance(self, count, **figures):
        self.said.append("advanced")


@pytest.mark.parametrize("limit", [0.0, 1e9])
def test_a_run_that_takes_long_says_so_at_its_start(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(_estimate, "LONG", limit)
    listener = Listener()
    run(replace(SMALL, out=tmp_path / "run"), listener)
    told = [i for i, said in enumerate(listener.said) if "by these settings" in said]
    if limit:
        assert not told
    else:
        (place,) = told  # before the two last of four meta-iterations are reported
        assert "--iterations 2, to begin with." in listener.said[place]
        assert "advanced" in listener.said[place:]


def test_a_dry_run_of_what_takes_long_is_counted_and_not_tried(monkeypatch):
    def step(self):
        raise AssertionError("a meta-iteration was tried")

    monkeypatch.setattr(Distillation, "step", step)
    monkeypatch.setattr(_estimate, "MOST_EXPECTED", 0.0)
    monkeypatch.setattr(_estimate, "_speed", lambda: 1e6)  # operations a second
    small, large = (estimate(replace(SMALL, batch_size=batch)) for batch in (16, 160))
    for found in (small, large):
        assert found.counted and found.memory > found.resident > 0
        assert "roughly (counted, not tried)" in str(found)
    # The coreset counts as well, so that ten times the batch costs less than ten times as much.
    assert 2 * small.seconds < large.seconds < 10 * small.seconds
    assert large.advice is not None or large.seconds * 4 < LONG


def test_a_dry_run_of_what_is_quick_is_tried():
    found = estimate(SMALL)
    assert not found.counted and found.iterations == 4 and 0 < found.seconds < 10
    assert "counted" not in str(found)
