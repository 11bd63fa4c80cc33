"""The scores of DD-Ranking (Li et al., 2025): what a distilled set is worth beyond its recipe."""

from dataclasses import dataclass
from math import e, exp


@dataclass(frozen=True)
class Ranking:
    """Accuracies, as fractions, and the two scores that they make.

    Attributes:
        distilled, random: of the distilled set and of a random subset of the same size, by the
            recipe that was asked for.
        distilled_hard, full_hard: with hard labels, of the distilled set and of all training data.
        distilled_augmented, random_augmented: trained on randomly changed images.
        distilled_plain, random_plain: and on images as they are.
    """

    distilled: float
    random: float
    distilled_hard: float
    full_hard: float
    distilled_augmented: float
    random_augmented: float
    distilled_plain: float
    random_plain: float

    def __str__(self) -> str:
        return (
            f"label-robust score         {self.label_robust_score:.1f}\n"
            f"augmentation-robust score  {self.augmentation_robust_score:.1f}"
        )

    @property
    def label_robust_score(self) -> float:
        """What is gained over random images, and what hard labels lose to all data; 0 to 100."""
        gain = self.distilled - self.random
        return _score(gain, self.distilled_hard - self.full_hard)

    @property
    def augmentation_robust_score(self) -> float:
        """What is gained over random images with augmentation and without; 0 to 100."""
        augmented = self.distilled_augmented - self.random_augmented
        return _score(augmented, self.distilled_plain - self.random_plain)


def _score(one: float, other: float) -> float:
    """100 (exp(a) - exp(-1)) / (exp(1) - exp(-1)), a the mean of two differences, -1 to 1."""
    return 100 * (exp((one + other) / 2) - 1 / e) / (e - 1 / e)
