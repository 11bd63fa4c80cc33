"""A run whose numbers are no longer finite stops, and names the iteration and the rate."""

import json

import equinox as eqx
import jax.numpy as jnp
import pytest

from bilevel_distillation import Distillation, EvaluationConfig, RunConfig, run
from bilevel_distillation._engine._distillation import Diverged

SMALL = dict(
    width=2, depth=1, batch_size=16, pool_size=1, pool_steps=1, method="frepo", iterations=200
)


def test_a_run_that_diverges_stops_and_keeps_its_metrics(tmp_path):
    config = RunConfig(
        **SMALL, coreset_rate=1e30, out=tmp_path / "run", curve_points=1,
        evaluation=EvaluationConfig(repeats=1, steps=1, warmup=0),
    )  # fmt: skip
    with pytest.raises(Diverged, match=r"at iteration \d .* coreset_rate=1e\+30.* --coreset-rate"):
        run(config)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert 1 <= max(json.loads(line)["iteration"] for line in lines) < 10
    assert not (tmp_path / "run" / "results.json").exists()
    assert not list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))


def test_the_rate_of_the_networks_is_named_where_they_diverge():
    distillation = Distillation(RunConfig(**SMALL, pool_rate=1e30))
    with pytest.raises(Diverged, match=r"and pool_rate=1e\+30: .* or --pool-rate"):
        for _ in range(5):
            distillation.step()


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -2e6])
def test_a_state_that_is_not_sound_is_not_kept(value):
    distillation = Distillation(RunConfig(**SMALL))
    distillation.check()
    images = distillation.state.coreset.images.at[3, 0, 0, 0].set(value)
    distillation.state = eqx.tree_at(lambda s: s.coreset.images, distillation.state, images)
    with pytest.raises(Diverged, match=r"iteration 0 its distilled images .* coreset_rate=0.03"):
        distillation.check()
