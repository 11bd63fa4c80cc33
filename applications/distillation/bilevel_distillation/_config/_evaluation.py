"""The settings of networks that are trained to judge."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

from ..networks import GROUP, NETWORKS, NormName, check_name
from ._checks import at_least_one, not_negative, one_of, positive
from ._types import (
    AsAsked,
    AsDistilled,
    ByNetwork,
    JudgeName,
    LabelName,
    LossName,
    Network,
    Open,
    Trainer,
)

JUDGES: Mapping[JudgeName, Mapping[str, Any]] = MappingProxyType(
    {
        "paper": dict(network="convnet", norm="none", doubling=True),
        "wide-instance": dict(network="convnet", norm="instance", doubling=False),
    }
)
"""The two networks by which the literature judges, at the widths of `JUDGES_WIDTH`."""

JUDGES_WIDTH = 128


@dataclass(frozen=True)
class EvaluationConfig:
    """How a distilled set is judged: networks trained from scratch on it, tested on held-out
    images.

    Attributes:
        repeats: how many networks; mean and deviation are over them.
        judge: in place of `network`, `norm` and `doubling`, one of the two networks by which the
            literature judges: paper (a ConvNet whose width doubles at each layer, without
            normalisation) or wide-instance (one of the same width in each layer, with instance
            normalisation); both begin with 128 channels if `width` does not say otherwise.
        network: convnet, resnet18, vgg11, alexnet, or a class of your own, package.module:Class.
        norm: its normalisation.
        width: channels of its first convolution; by default a ConvNet's is that of the network
            that distils, and the others have their usual ones.
        doubling: whether the channels of a ConvNet double at each layer.
        augment: train on randomly changed images, anew in each step.
        labels: soft (those of the set), or hard (one-hot at the largest of them, centred).
        loss: squared (the squared error on labels as they are), or cross-entropy (on soft labels
            brought back to shares of 1).
        optimiser: adam, or sgd (momentum 0.9, weight decay 5e-4, a tenth of the rate from half
            way).
        select: of a network, keep what is best on held-out training images at ten moments of its
            training; without it, what is there at the end.
        steps: training steps; by default 1000 for up to 10 images, else 2000.
        learning_rate: Adam's highest rate, reached by a linear warm-up, then cosine to 1 %; by
            default 3e-4 for resnet18, else 1e-4. Of sgd the first one; by default 0.01.
        warmup: steps of warm-up; at most half of all steps are.
        batch_size: the whole set up to this many images, else random batches of this size.
    """

    repeats: int = 5
    judge: AsAsked[JudgeName] = None
    network: Network = "convnet"
    norm: AsDistilled[NormName] = None
    width: ByNetwork[int] = None
    doubling: bool = True
    augment: bool = False
    labels: LabelName = "soft"
    loss: LossName = "squared"
    optimiser: Trainer = "adam"
    select: bool = False
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
        for name, known in (("labels", LabelName), ("loss", LossName), ("optimiser", Trainer)):
            one_of(self.prefix + name, getattr(self, name), known)
        if self.judge is not None:
            one_of(f"{self.prefix}judge", self.judge, JudgeName)
            self._check_alone()
        for name in ("repeats", "steps", "batch_size", "width"):
            if getattr(self, name) is not None:
                at_least_one(self.prefix + name, getattr(self, name))
        not_negative(f"{self.prefix}warmup", self.warmup)
        if self.learning_rate is not None:
            positive(f"{self.prefix}learning_rate", self.learning_rate)

    def _check_alone(self) -> None:
        """A judge brings its own network: another one beside it is a mistake."""
        assert self.judge is not None
        usual = {"network": "convnet", "norm": None, "doubling": True}
        for name, value in JUDGES[self.judge].items():
            given = getattr(self, name)
            if given not in (usual[name], value):
                raise ValueError(
                    f"{self.prefix}{name}={given!r} is not that of {self.prefix}judge="
                    f"{self.judge!r}: leave one of the two out."
                )

    def with_judge(self) -> "EvaluationConfig":
        """The network of its judge, where it has one, in its other settings."""
        if self.judge is None:
            return self
        return replace(self, **JUDGES[self.judge], width=self.width or JUDGES_WIDTH)
