"""The settings of what is done with a run, or with a set made elsewhere."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..networks import GROUP, NETWORKS, NormName, check_name
from ._checks import at_least_one, one_of
from ._evaluation import EvaluationConfig, check_training
from ._types import AsDistilled, ByNetwork, LabelName, Network, Open


@dataclass(frozen=True)
class EvaluateConfig:
    """Train networks from scratch on a distilled set and test them on held-out images.

    Settings that are None come from the set itself, or from its data set.

    Attributes:
        path: a run's folder, an exported folder, or an .npz made elsewhere (images, labels).
        dataset: where the held-out images come from.
        network: convnet, resnet18, vgg11, alexnet, a class of your own, package.module:Class, or
            several of them.
        norm: their normalisation, or several: none, batch, instance, group, layer.
        width: channels of the first convolution; by default a ConvNet's is as distilled, and the
            others have their usual ones.
        depth: of a ConvNet: convolutions, each halving the image.
        padding: pixels added around the image in the first convolution.
        flip: train on mirror images too.
        zca: for an .npz made elsewhere: whether its images are whitened.
        augment: train on randomly changed images, anew in each step.
        labels: soft (those of the set), or hard (one-hot at the largest of them, centred).
        repeats: how many networks of each kind; mean and deviation are over them.
        steps: training steps; by default 1000 for up to 10 images, else 2000.
        learning_rate: Adam's highest rate, reached by a linear warm-up, then cosine to 1 %; by
            default 3e-4 for resnet18, else 1e-4.
        warmup: steps of warm-up; at most half of all steps are.
        batch_size: the whole set up to this many images, else random batches of this size.
        baseline: also judge random subsets of the same size, by the same recipe.
        ranking: also the two scores of DD-Ranking, and the accuracies that they are made of.
        full_steps: training steps on the whole training set, for the ranking; by default as many
            as on the distilled one.
        seed: of the networks.
    """

    path: Annotated[Path, tyro.conf.Positional]
    dataset: Annotated[
        str | None, tyro.conf.arg(help_behavior_hint="(default: what the set says)")
    ] = None
    network: tuple[Network, ...] = ("convnet",)
    norm: Annotated[
        tuple[NormName, ...], tyro.conf.arg(help_behavior_hint="(default: as distilled)")
    ] = ()
    width: ByNetwork[int] = None
    depth: AsDistilled[int] = None
    padding: AsDistilled[int] = None
    flip: AsDistilled[bool] = None
    zca: Annotated[
        bool | None, tyro.conf.arg(help_behavior_hint="(default: colour images are)")
    ] = None
    augment: bool = False
    labels: LabelName = "soft"
    repeats: int = 5
    steps: Open[int] = None
    learning_rate: ByNetwork[float] = None
    warmup: int = 500
    batch_size: int = 256
    baseline: bool = True
    ranking: bool = False
    full_steps: Open[int] = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.network:
            raise ValueError("network=() names none: give e.g. convnet.")
        for value in self.network:
            check_name("network", value, NETWORKS, GROUP)
        for value in self.norm:
            one_of("norm", value, NormName)
        check_training(self)
        if self.full_steps is not None:
            at_least_one("full_steps", self.full_steps)

    def evaluations(self) -> list[EvaluationConfig]:
        """One for each network with each normalisation."""
        names = ("repeats", "width", "augment", "labels", "steps", "learning_rate", "warmup",
                 "batch_size")  # fmt: skip
        shared = {name: getattr(self, name) for name in names}
        return [
            EvaluationConfig(network=network, norm=norm, **shared)
            for network in self.network
            for norm in self.norm or (None,)
        ]


@dataclass(frozen=True)
class AttackConfig:
    """Try to tell the images that a run distilled from held-out ones (membership inference).

    Attributes:
        path: a run's folder.
        repeats: networks on the distilled set, on random subsets and on the real images, each.
        steps: their training steps; by default those of the run's evaluation.
        real_steps: of those on the real images; by default as many.
        seed: of the networks and the attackers.
    """

    path: Annotated[Path, tyro.conf.Positional]
    repeats: int = 5
    steps: Open[int] = None
    real_steps: Open[int] = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("repeats", "steps", "real_steps"):
            if getattr(self, name) is not None:
                at_least_one(name, getattr(self, name))
