"""The settings of networks that are trained to judge."""

from dataclasses import dataclass
from typing import ClassVar

from ..networks import GROUP, NETWORKS, NormName, check_name
from ._checks import at_least_one, not_negative, one_of, positive
from ._types import AsDistilled, ByNetwork, LabelName, Network, Open


@dataclass(frozen=True)
class EvaluationConfig:
    """How a distilled set is judged: networks trained from scratch on it, tested on held-out
    images.

    Attributes:
        repeats: how many networks; mean and deviation are over them.
        network: convnet, resnet18, vgg11, alexnet, or a class of your own, package.module:Class.
        norm: its normalisation.
        width: channels of its first convolution; by default a ConvNet's is that of the network
            that distils, and the others have their usual ones.
        augment: train on randomly changed images, anew in each step.
        labels: soft (those of the set), or hard (one-hot at the largest of them, centred).
        steps: training steps; by default 1000 for up to 10 images, else 2000.
        learning_rate: Adam's highest rate, reached by a linear warm-up, then cosine to 1 %; by
            default 3e-4 for resnet18, else 1e-4.
        warmup: steps of warm-up; at most half of all steps are.
        batch_size: the whole set up to this many images, else random batches of this size.
    """

    repeats: int = 5
    network: Network = "convnet"
    norm: AsDistilled[NormName] = None
    width: ByNetwork[int] = None
    augment: bool = False
    labels: LabelName = "soft"
    steps: Open[int] = None
    learning_rate: ByNetwork[float] = None
    warmup: int = 500
    batch_size: int = 256

    prefix: ClassVar[str] = "evaluation."
    """What stands before the name of a setting where it is given, for what is said of it."""

    def __post_init__(self) -> None:
        check_name(f"{self.prefix}network", self.network, NETWORKS, GROUP)
        if self.norm is not None:
            one_of(f"{self.prefix}norm", self.norm, NormName)
        one_of(f"{self.prefix}labels", self.labels, LabelName)
        for name in ("repeats", "steps", "batch_size", "width"):
            if getattr(self, name) is not None:
                at_least_one(self.prefix + name, getattr(self, name))
        not_negative(f"{self.prefix}warmup", self.warmup)
        if self.learning_rate is not None:
            positive(f"{self.prefix}learning_rate", self.learning_rate)
