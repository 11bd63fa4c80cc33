"""The scores of DD-Ranking, against their definition."""

from dataclasses import replace
from math import exp

import pytest

from bilevel_distillation import Ranking

SAME = Ranking(*[0.5] * 8)


def score(mean):
    return 100 * (exp(mean) - exp(-1)) / (exp(1) - exp(-1))


def test_what_is_no_better_than_random_images_and_as_good_as_all_data():
    assert SAME.label_robust_score == pytest.approx(score(0)) == pytest.approx(26.89, abs=0.01)
    assert SAME.augmentation_robust_score == pytest.approx(score(0))


def test_the_scores_go_from_0_to_100():
    best = replace(SAME, distilled=1.0, random=0.0, distilled_hard=1.0, full_hard=0.0)
    worst = replace(SAME, distilled=0.0, random=1.0, distilled_hard=0.0, full_hard=1.0)
    assert best.label_robust_score == pytest.approx(100)
    assert worst.label_robust_score == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("change", "labels", "augmentation"),
    [
        (dict(distilled=0.7), 0.1, 0),
        (dict(random=0.7), -0.1, 0),
        (dict(distilled_hard=0.3), -0.1, 0),
        (dict(full_hard=0.9), -0.2, 0),
        (dict(distilled_augmented=0.9, random_plain=0.3), 0, 0.3),
        (dict(random_augmented=0.7, distilled_plain=0.4), 0, -0.15),
    ],
)
def test_each_accuracy_counts_half(change, labels, augmentation):
    ranking = replace(SAME, **change)
    assert ranking.label_robust_score == pytest.approx(score(labels))
    assert ranking.augmentation_robust_score == pytest.approx(score(augmentation))
