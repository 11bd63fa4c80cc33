"""The distillation as an object: what it draws, what it gives back, what it says of itself."""

import equinox as eqx
import jax
import numpy as np
import pytest

from bilevel_distillation import Distillation, RunConfig
from bilevel_distillation.data import ImageData

SETTINGS = dict(
    dataset="own", method="frepo", width=2, depth=1, batch_size=7, pool_size=3, pool_steps=4,
    iterations=5, seed=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = rng.integers(0, 256, (40, 4, 4, 1), dtype=np.uint8)
    return ImageData("own", images, labels, images[:6], labels[:6], ("cat", "dog"))


@pytest.fixture(scope="module")
def distillation(data):
    return Distillation(RunConfig(**SETTINGS), data)


def draws_of(distillation, iterations):
    """What the meta-iterations of these numbers draw."""
    before, found = distillation.iteration, []
    for iteration in iterations:
        distillation.iteration = iteration - 1
        found.append(distillation.next_arguments()[2])
    distillation.iteration = before
    return found


def test_every_choice_is_drawn_alike_and_none_outside_its_range(distillation):
    draws = draws_of(distillation, range(1, 201))
    steps = np.bincount([int(one.pool_steps) for one in draws], minlength=5)
    models = np.bincount([int(one.model) for one in draws], minlength=3)
    rows = np.bincount(np.concatenate([one.rows for one in draws]), minlength=40)
    assert steps[0] == 0 and len(steps) == 5 and len(models) == 3 and len(rows) == 40
    # Each count is a sum of 200 yes or no: within 5 deviations of what is expected.
    for counts, share in ((steps[1:], 1 / 4), (models, 1 / 3), (rows, 7 / 40)):
        assert np.all(np.abs(counts - 200 * share) < 5 * np.sqrt(200 * share * (1 - share)))
    assert all(len(set(np.asarray(one.rows).tolist())) == 7 for one in draws)


def test_an_iteration_draws_by_its_number_and_the_seed_alone(data, distillation):
    one, other = draws_of(distillation, [3, 9])
    (again,) = draws_of(Distillation(RunConfig(**SETTINGS), data), [3])
    (elsewhere,) = draws_of(Distillation(RunConfig(**SETTINGS | {"seed": 6}), data), [3])
    np.testing.assert_array_equal(one.rows, again.rows)
    assert (one.model, one.pool_steps, one.key) == (again.model, again.pool_steps, again.key)
    for different in (other, elsewhere):
        assert not np.array_equal(one.rows, different.rows) and one.key != different.key


def test_what_it_releases_is_the_average_and_says_how_it_was_made(data):
    distillation = Distillation(RunConfig(**SETTINGS | {"average_decay": 0.0}), data)
    before = distillation.distilled()
    distillation.step()
    after = distillation.distilled()
    np.testing.assert_array_equal(after.images, distillation.state.coreset.images)
    assert not np.array_equal(before.images, after.images)
    assert after.class_names == ("cat", "dog") and list(after.classes) == [0, 1]
    assert before.provenance["seconds"] == 0 and after.provenance["seconds"] > 0
    cost = {"seconds", "processor_seconds", "peak_memory"}
    same = [{k: v for k, v in one.provenance.items() if k not in cost} for one in (before, after)]
    assert same[1] == same[0] | {"iterations": 1} and cost < set(after.provenance)
    told = {name: after.provenance[name] for name in ("dataset", "method", "seed", "network",
                                                      "width")}  # fmt: skip
    assert told == {"dataset": "own", "method": "frepo", "seed": 5, "network": "ConvNet",
                    "width": 2}  # fmt: skip


def test_it_goes_on_from_where_it_was_to_the_same_bits(data):
    one, other = (Distillation(RunConfig(**SETTINGS), data) for _ in range(2))
    one.step()
    kept = jax.tree.map(lambda leaf: leaf.copy() if eqx.is_array(leaf) else leaf, one.state)
    other.restore(1, kept, one.notes())
    for distillation in (one, other):
        distillation.step()
    assert other.iteration == 2 and other.seconds > 0
    np.testing.assert_array_equal(one.distilled().images, other.distilled().images)


def test_data_in_the_hosts_memory_are_not_on_the_device(data):
    distillation = Distillation(RunConfig(**SETTINGS | {"storage": "host"}), data)
    with pytest.raises(ValueError, match="storage='host' keeps no training images on the device"):
        _ = distillation.training
    kept = Distillation(RunConfig(**SETTINGS | {"storage": "bytes"}), data)
    for one in (distillation, kept):
        one.step()
    np.testing.assert_array_equal(distillation.distilled().images, kept.distilled().images)
