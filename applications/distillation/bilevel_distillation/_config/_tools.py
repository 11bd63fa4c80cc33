"""The settings of what is done with a run, or with a set made elsewhere."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..networks import GROUP, NETWORKS, NormName, check_name
from ._checks import at_least_one, not_negative, one_of
from ._evaluation import EvaluationConfig
from ._types import AsDistilled, Network, Open


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
        evaluation: how all of them are trained; `network` and `norm` come before its own. Its
            settings may also be given as they are: `EvaluateConfig(path, repeats=3, steps=500)`.
        depth: of a ConvNet: convolutions, each halving the image.
        padding: pixels added around the image in the first convolution.
        flip: train on mirror images too.
        zca: for an .npz made elsewhere: whether its images are whitened.
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
    network: Annotated[
        tuple[Network, ...] | None,
        tyro.conf.arg(metavar="[STR [STR ...]]", help_behavior_hint="(default: convnet)"),
    ] = None
    norm: Annotated[
        tuple[NormName, ...], tyro.conf.arg(help_behavior_hint="(default: as distilled)")
    ] = ()
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    depth: AsDistilled[int] = None
    padding: AsDistilled[int] = None
    flip: AsDistilled[bool] = None
    zca: Annotated[
        bool | None, tyro.conf.arg(help_behavior_hint="(default: colour images are)")
    ] = None
    baseline: bool = True
    ranking: bool = False
    full_steps: Open[int] = None
    seed: int = 0

    def __init__(
        self,
        path: Path,
        dataset: str | None = None,
        network: tuple[str, ...] | None = None,
        norm: tuple[NormName, ...] = (),
        evaluation: EvaluationConfig | None = None,
        depth: int | None = None,
        padding: int | None = None,
        flip: bool | None = None,
        zca: bool | None = None,
        baseline: bool = True,
        ranking: bool = False,
        full_steps: int | None = None,
        seed: int = 0,
        **recipe: Any,
    ) -> None:
        given = dict(
            path=path, dataset=dataset, network=network, norm=norm, depth=depth, padding=padding,
            flip=flip, zca=zca, baseline=baseline, ranking=ranking, full_steps=full_steps,
            seed=seed, evaluation=replace(evaluation or EvaluationConfig(), **recipe),
        )  # fmt: skip
        for name, value in given.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        if self.network is not None and not self.network:
            raise ValueError("network=() names none: give e.g. convnet.")
        for value in self.network or ():
            check_name("network", value, NETWORKS, GROUP)
        for value in self.norm:
            one_of("norm", value, NormName)
        if self.full_steps is not None:
            at_least_one("full_steps", self.full_steps)
        not_negative("seed", self.seed)

    def evaluations(self) -> list[EvaluationConfig]:
        """One for each network with each normalisation."""
        shared = vars(self.evaluation)
        return [
            EvaluationConfig(**shared | {"network": network, "norm": norm})
            for network in self.network or (self.evaluation.network,)
            for norm in self.norm or (self.evaluation.norm,)
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
        not_negative("seed", self.seed)
