"""Parts of the training images: what is seen, and what is held out."""

import numpy as np
import pytest

from bilevel_distillation import Distillation, RunConfig
from bilevel_distillation._engine import for_selection, load_parts
from bilevel_distillation.data import load, set_apart


def rows_of(part):
    return {image.tobytes() for image in part.train_images}


def test_held_out_images_are_balanced_apart_and_the_same_in_every_run():
    data = load("digits")
    rest, apart = set_apart(data, 35)
    assert sorted(np.bincount(apart.train_labels)) == [3] * 5 + [4] * 5
    assert len(rest.train_labels) + 35 == len(data.train_labels)
    assert not rows_of(rest) & rows_of(apart)
    for part in (rest, apart):
        np.testing.assert_array_equal(part.test_images, data.test_images)
    (seen, first), (other, second) = (
        load_parts(RunConfig(held_out=35, samples=100, seed=seed)) for seed in (0, 1)
    )
    assert first is not None and second is not None
    assert rows_of(first) == rows_of(second) == rows_of(apart)
    assert rows_of(seen) != rows_of(other) and len(seen.train_labels) == 100
    assert not rows_of(seen) & rows_of(apart)
    assert len(Distillation(RunConfig(held_out=35, method="random")).data.train_labels) == len(
        rest.train_labels
    )


def test_without_any_a_tenth_of_what_was_seen_selects():
    data = load("digits")
    part = for_selection(data, None)
    assert set(np.bincount(part.train_labels)) == {np.bincount(data.train_labels).min() // 10}
    assert rows_of(part) < rows_of(data) and for_selection(data, part) is part


def test_what_cannot_be_held_out_is_said():
    data = load("digits")
    for count, sentence in (
        (9, "held_out=9 is fewer than the 10 classes of 'digits': give at least one"),
        (10**6, "held_out=1000000 takes 100000 training images of each class, and class '0'"),
    ):
        with pytest.raises(ValueError, match=sentence) as error:
            set_apart(data, count)
        assert str(error.value).endswith(".") and "all images" not in str(error.value)
    fewest = int(np.bincount(data.train_labels).min())
    with pytest.raises(ValueError, match="leaves a class of 'digits' without training images"):
        set_apart(data, 10 * fewest)
