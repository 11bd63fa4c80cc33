"""What a distillation costs is counted, kept in checkpoints, and told by the set."""

import numpy as np
import pytest

from bilevel_distillation import Distillation, RunConfig
from bilevel_distillation._engine._spent import Spent
from bilevel_distillation.data import ImageData

TINY = RunConfig(width=2, depth=1, batch_size=6, iterations=4, norm="none", method="dm",
                 pool_size=1)  # fmt: skip


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = rng.integers(0, 256, (40, 4, 4, 1), dtype=np.uint8)
    return ImageData("own", images, labels, images[:6], labels[:6], ("cat", "dog"))


def test_steps_and_what_is_done_once_are_counted_apart():
    spent = Spent()
    with spent.once():
        sum(range(10**6))
    once = spent.processor_seconds
    assert once > 0 and spent.seconds == 0
    with spent.step():
        sum(range(10**6))
    assert spent.seconds > 0 and spent.processor_seconds > once
    with pytest.raises(RuntimeError), spent.step():
        raise RuntimeError
    peak = spent.look()
    assert peak is not None and peak > 2**20


def test_a_checkpoint_carries_it_on_and_one_of_before_has_seconds_alone():
    spent = Spent(3.0, 5.0, 10**15)
    again = Spent.from_notes(spent.to_notes())
    assert again == spent and again.look() == 10**15
    assert Spent.from_notes({"seconds": 2.0}) == Spent(2.0)


def test_a_set_tells_its_cost_also_after_a_checkpoint(data):
    one, other = (Distillation(TINY, data) for _ in range(2))
    one.step()
    told = one.distilled().provenance
    assert told["processor_seconds"] >= 0 and told["peak_memory"] > 2**20
    other.restore(one.iteration, one.whole_state(), one.notes())
    assert other.spent.processor_seconds == one.spent.processor_seconds > 0
    assert other.seconds == one.seconds
