"""The other systems as runs: each distils, stops, and goes on to the same bits; trajectories are
trained once.
"""

from dataclasses import replace

import equinox as eqx
import jax
import numpy as np
import pytest

from bilevel_distillation import Distillation, EvaluationConfig, Reporter, RunConfig, run
from bilevel_distillation._artifacts import Checkpoints, find_prepared
from bilevel_distillation._config._types import METHOD_NAMES
from bilevel_distillation._methods import METHODS, _experts
from bilevel_distillation.data import ImageData
from bilevel_distillation.engine import estimate, meta_step

SYSTEMS = ["dm", "dc", "dsa", "kip", "rfad", "bptt", "mtt"]
TINY = RunConfig(
    width=2, depth=1, batch_size=6, iterations=4, norm="none", networks=2, inner_steps=2, window=1,
    trajectories=2, start_epochs=1, match_epochs=1, curve_points=1, checkpoint_seconds=0.0,
    evaluation=EvaluationConfig(repeats=1, steps=2),
)  # fmt: skip


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = rng.integers(0, 256, (40, 4, 4, 1), dtype=np.uint8)
    return ImageData("own", images, labels, images[:6], labels[:6], ("cat", "dog"))


@pytest.mark.parametrize("method", SYSTEMS)
def test_it_distils_stops_and_goes_on_to_the_same_bits(method, data, tmp_path):
    config = replace(TINY, method=method)
    one, other = (Distillation(config, data) for _ in range(2))
    before = one.distilled().images
    one.step()
    saved = Checkpoints(tmp_path)
    saved.save(1, one.whole_state(), one.notes())
    saved.close()
    losses = [float(one.step().loss) for _ in range(2)]
    found = Checkpoints(tmp_path)
    restored = found.restore(other.whole_state())
    found.close()
    assert restored is not None
    other.restore(*restored)
    again = [float(other.step().loss) for _ in range(2)]
    assert losses == again and np.isfinite(losses).all()
    one_set, other_set = one.distilled(), other.distilled()
    for name in ("images", "labels"):
        assert getattr(one_set, name).tobytes() == getattr(other_set, name).tobytes()
    assert not np.allclose(one_set.images, before)
    one.check()


@pytest.mark.slow
@pytest.mark.parametrize("method", SYSTEMS)
def test_one_program_does_what_the_parts_do(method, data):
    """As on an accelerator, where a meta-iteration is compiled whole."""
    one = Distillation(replace(TINY, method=method), data)
    arguments = one.next_arguments()
    other, also = eqx.filter_jit(meta_step)(*arguments)  # the other uses its state up
    found, told = meta_step(*arguments)
    np.testing.assert_allclose(told.loss, also.loss, rtol=1e-4)
    np.testing.assert_allclose(found.coreset.images, other.coreset.images, atol=2e-3)
    assert jax.tree.structure(found) == jax.tree.structure(other)


@pytest.mark.parametrize("storage", ["bytes", "host"])
def test_images_may_be_kept_anywhere(storage, data):
    found = [Distillation(replace(TINY, method="dm", storage=one), data) for one in
             ("floats", storage)]  # fmt: skip
    for one in found:
        one.step()
    one, other = (distillation.distilled().images for distillation in found)
    np.testing.assert_allclose(one, other, atol=1e-5)


class Count(Reporter):
    """What is begun and how often; raises once so many iterations are done."""

    def __init__(self, most=10**9):
        self.begun, self.left = [], most

    def begin(self, description, total, done):
        self.begun.append(description)

    def advance(self, count, **figures):
        self.left -= count
        if self.left < 0:
            raise RuntimeError("the power went off")


DIGITS = replace(TINY, dataset="digits", method="mtt", batch_size=None)


def test_trajectories_are_trained_once_for_all_runs_of_the_same_data(tmp_path):
    first, told = tmp_path / "first", Count(most=4)  # 2 of the trajectories, 1 of judging, ...
    with pytest.raises(RuntimeError, match="power"):
        run(replace(DIGITS, out=first), told)
    assert told.begun.count("preparing") == 1 and (first / "prepared.npz").exists()
    told = Count()
    run(replace(DIGITS, out=first), told)
    assert "preparing" not in told.begun
    other = tmp_path / "other"
    run(replace(DIGITS, seed=1, inner_rate=0.02, out=other), told)  # which prepare nothing else
    assert "preparing" not in told.begun
    assert (other / "prepared.npz").read_bytes() == (first / "prepared.npz").read_bytes()
    third = Distillation(replace(DIGITS, trajectories=3))
    assert find_prepared(first, third.made_for()) is None
    known = Distillation(DIGITS).made_for()
    kept = find_prepared(first, known)
    assert kept is not None
    arrays, seconds = kept
    assert arrays[0].shape[:2] == (2, 3) and seconds > 0
    content = bytearray((first / "prepared.npz").read_bytes())
    content[len(content) // 2] ^= 1
    alone = tmp_path / "elsewhere" / "alone"
    alone.mkdir(parents=True)
    (alone / "prepared.npz").write_bytes(content)
    assert find_prepared(alone, known) is None and (alone / "damaged" / "prepared.npz").exists()


def test_a_dry_run_trains_none_and_tells_what_they_take(monkeypatch):
    monkeypatch.setattr(_experts, "train_experts", None)
    found = estimate(DIGITS)
    assert found.iterations == 4 and found.seconds > 0
    assert found.preparation is not None and found.preparation > 0
    few = estimate(replace(DIGITS, trajectories=4))
    parameters = found.prepared / (2 * 3 * 4)  # 2 trajectories of 2 epochs, float32
    assert few.prepared == 2 * found.prepared and parameters == int(parameters)
    assert few.resident - found.resident == found.prepared
    assert "for what the method prepares once" in str(found)
    assert estimate(replace(DIGITS, method="dm")).preparation == 0


def test_what_cannot_work_is_said_at_once(data):
    for changes, sentence in (
        (dict(method="dm", batch_size=1), "batch_size=1 is less than one image of each of 2 class"),
        (dict(method="bptt", window=9), "window=9 is longer than inner_steps=2: give at most"),
        (dict(method="mtt", trajectories=10**9), "most of it for trajectories=1000000000: give a"),
        (dict(method="dsa", augment=True, init="nowhere"), "init='nowhere' is neither a known"),
    ):
        with pytest.raises(ValueError, match=sentence) as error:
            Distillation(replace(TINY, **changes), data)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", SYSTEMS)
def test_presets_are_settings_and_give_way_to_the_users(method, data):
    for dataset, ipc in (("digits", 1), ("mnist", 10), ("cifar10", 50)):
        presets = METHODS[method].presets(dataset, ipc)
        assert set(presets) <= set(vars(TINY))
        config = RunConfig(dataset=dataset, method=method, ipc=ipc, **presets)
        assert all(getattr(config, name) == value for name, value in presets.items())
    found = Distillation(replace(TINY, method=method, coreset_rate=0.123), data).config
    assert found.coreset_rate == 0.123 and found.norm == "none"


def test_all_names_are_known():
    assert tuple(METHODS) == METHOD_NAMES
