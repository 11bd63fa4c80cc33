"""The settings of what is done with a run, or with a set made elsewhere."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, get_args

import tyro

from ..networks import GROUP, NETWORKS, NormName, check_name
from ._checks import at_least_one, not_negative, one_of
from ._evaluation import EvaluationConfig
from ._types import AsDistilled, JudgeName, Kind, LabelName, Network, Open, RecipeName


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
        judge: in place of network and norm, one or both of those by which the literature judges:
            paper (a ConvNet whose width doubles at each layer, without normalisation) and
            wide-instance (128 channels in each layer, instance normalisation).
        labels: that they are trained on, one or both: soft (those of the set), or hard (one-hot at
            the largest of them, centred).
        recipe: by which they are trained, one or both: common (the settings here, which are those
            of the RCIG paper) or own (that of the method which made the set, where it has one).
        also: further sets of the same data, such as those of other seeds: mean and deviation are
            over all sets, and `evaluation.select` chooses the best of them by held-out images.
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
    judge: Annotated[
        tuple[JudgeName, ...], tyro.conf.arg(help_behavior_hint="(default: network and norm)")
    ] = ()
    labels: Annotated[
        tuple[LabelName, ...], tyro.conf.arg(help_behavior_hint="(default: soft)")
    ] = ()
    recipe: tuple[RecipeName, ...] = ("common",)
    also: tuple[Path, ...] = ()
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
        judge: tuple[JudgeName, ...] = (),
        labels: tuple[LabelName, ...] | LabelName = (),
        recipe: tuple[RecipeName, ...] = ("common",),
        also: tuple[Path, ...] = (),
        **settings: Any,
    ) -> None:
        given = dict(
            path=path, dataset=dataset, network=network, norm=norm, depth=depth, padding=padding,
            flip=flip, zca=zca, baseline=baseline, ranking=ranking, full_steps=full_steps,
            seed=seed, judge=_several(judge), labels=_several(labels), recipe=_several(recipe),
            also=tuple(also), evaluation=replace(evaluation or EvaluationConfig(), **settings),
        )  # fmt: skip
        for name, value in given.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        if self.network is not None and not self.network:
            raise ValueError("network=() names none: give e.g. convnet.")
        for value in self.network or ():
            check_name("network", value, NETWORKS, GROUP)
        for name, known in (("norm", NormName), ("judge", JudgeName), ("labels", LabelName),
                            ("recipe", RecipeName)):  # fmt: skip
            for value in getattr(self, name):
                one_of(name, value, known)
        if not self.recipe:
            raise ValueError("recipe=() names none: give e.g. common.")
        if self.judge and (self.network or self.norm):
            name, (value, *_) = ("network", self.network) if self.network else ("norm", self.norm)
            raise ValueError(
                f"{name}={value!r} beside judge={self.judge[0]!r}, which brings its own network: "
                "leave one of the two out."
            )
        if self.full_steps is not None:
            at_least_one("full_steps", self.full_steps)
        not_negative("seed", self.seed)

    def evaluations(self) -> list[EvaluationConfig]:
        """One for each judge, or each network with each normalisation, with each kind of labels;
        by the common recipe.
        """
        own, shared = self.evaluation, dict[str, Any](vars(self.evaluation))
        networks = [dict[str, Any](judge=judge) for judge in self.judge] or [
            dict[str, Any](network=network, norm=norm)
            for network in self.network or (own.network,)
            for norm in self.norm or (own.norm,)
        ]
        return [
            EvaluationConfig(**shared | network | dict[str, Any](labels=labels))
            for network in networks
            for labels in self.labels or (own.labels,)
        ]


def _several(value: Any) -> Any:
    """One name as a tuple of one."""
    return (value,) if isinstance(value, str) else tuple(value)


@dataclass(frozen=True)
class AttackConfig:
    """Try to tell the images that a run distilled from held-out ones (membership inference).

    Attributes:
        path: a run's folder.
        repeats: networks on the distilled set, on random subsets and on the real images, each.
        trained_on: which of the three: distilled, random_subset, real_data.
        steps: their training steps; by default those of the run's evaluation.
        real_steps: of those on the real images; by default as many.
        seed: of the networks and the attackers.
    """

    path: Annotated[Path, tyro.conf.Positional]
    repeats: int = 5
    trained_on: tuple[Kind, ...] = get_args(Kind)
    steps: Open[int] = None
    real_steps: Open[int] = None
    seed: int = 0

    def __post_init__(self) -> None:
        for kind in self.trained_on:
            one_of("trained_on", kind, Kind)
        if not self.trained_on:
            raise ValueError("trained_on=() names none: give e.g. distilled.")
        for name in ("repeats", "steps", "real_steps"):
            if getattr(self, name) is not None:
                at_least_one(name, getattr(self, name))
        not_negative("seed", self.seed)
