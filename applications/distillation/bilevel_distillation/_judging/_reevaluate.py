"""Judging a distilled set again: a run's, an exported one, or one made elsewhere."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np

from .._artifacts import (
    Accuracies,
    DistilledSet,
    NoPreprocessor,
    RunFolder,
    check_fit,
    check_preprocessed,
    load_hf,
)
from .._config import EvaluateConfig, EvaluationConfig, RunConfig, resolve
from .._engine import check_judges, load_data
from .._running import Reporter
from ..data import ImageData, Preprocessor, check_images_per_class
from ._judge import Held, hold, judge, judge_all_data, judge_random_subsets, match_classes
from ._ranking import Ranking


@dataclass(frozen=True)
class Evaluation:
    """What networks of one kind make of a distilled set.

    Attributes:
        network: the kind.
        norm: its normalisation.
        accuracies: of those networks; of random subsets only where they were asked for.
        ranking: the scores of DD-Ranking; None where they were not asked for.
    """

    network: str
    norm: str
    accuracies: Accuracies
    ranking: Ranking | None = None

    def __str__(self) -> str:
        scores = [] if self.ranking is None else [str(self.ranking)]
        return "\n".join([f"{self.network}, norm {self.norm}", str(self.accuracies), *scores])

    def to_json(self) -> dict[str, Any]:
        pair = {"network": self.network, "norm": self.norm}
        ranking = {} if self.ranking is None else {"ranking": asdict(self.ranking)}
        return pair | self.accuracies.to_json() | ranking


class Evaluations(list[Evaluation]):
    """One for each network with each normalisation. Of a single one the accuracies can be had by
    their name in `evaluations.json`, too: `found["distilled"]`.
    """

    @overload
    def __getitem__(self, at: SupportsIndex) -> Evaluation: ...

    @overload
    def __getitem__(self, at: slice) -> list[Evaluation]: ...

    @overload
    def __getitem__(self, at: str) -> Any: ...

    def __getitem__(self, at: Any) -> Any:
        if not isinstance(at, str):
            return super().__getitem__(at)
        if len(self) != 1:
            raise KeyError(f"{at!r} of which of {len(self)} evaluations: take one by its number.")
        return super().__getitem__(0).to_json()[at]


def reevaluate(asked: EvaluateConfig, reporter: Reporter | None = None) -> Evaluations:
    """Judge the set at `asked.path` anew.

    Returns:
        One evaluation for each network with each normalisation that was asked for.

    Raises:
        ValueError: no distilled set is there, or it does not fit the data set or a network.
    """
    reporter = reporter or Reporter()
    distilled, config = _open(asked)
    data = load_data(config)
    if distilled is None:
        distilled = _read_foreign(asked, data)
    elif asked.flip is not None:
        distilled = replace(distilled, flip=asked.flip)
    check_fit(distilled, data)
    distilled = match_classes(distilled, data, reporter.say)
    configs = _configs(asked, config, distilled, data)
    held = hold(data, distilled.preprocessor)
    sets = 6 if asked.ranking and asked.evaluation.labels == "soft" else 5 if asked.ranking else 1
    sets += asked.baseline and not asked.ranking
    reporter.begin("evaluating", len(configs) * sets * asked.evaluation.repeats, 0)

    def done(accuracy: float) -> None:
        reporter.advance(1, accuracy=accuracy)

    evaluations = Evaluations()
    for one in configs:
        judges = _Judges(one, data, held, distilled, done)
        evaluations.append(_judge(judges, asked))
    reporter.end()
    return evaluations


def _configs(
    asked: EvaluateConfig, config: RunConfig, distilled: DistilledSet, data: ImageData
) -> list[RunConfig]:
    """Complete settings for each network with each normalisation, checked."""
    ipc = max(1, len(distilled.images) // data.classes)
    if asked.baseline or asked.ranking:
        check_images_per_class(data, ipc)
    sizes = {name: getattr(asked, name) for name in ("depth", "padding")}
    given = {name: value for name, value in sizes.items() if value is not None}
    config = replace(config, ipc=ipc, seed=asked.seed, **given)
    config = replace(config, zca=distilled.preprocessor.whitening is not None)
    configs = []
    for evaluation in asked.evaluations():
        one = replace(config, evaluation=evaluation)
        configs.append(resolve(one, data.image_shape, data.classes))
        check_judges(configs[-1], data.image_shape, data.classes)
    return configs


class _Judges:
    """Accuracies by one recipe and by changes of it, each measured once."""

    def __init__(
        self,
        config: RunConfig,
        data: ImageData,
        held: Held,
        distilled: DistilledSet,
        done: Callable[[float], None],
    ):
        self.config, self.data, self.held = config, data, held
        self._distilled, self._done = distilled, done
        self._seen: dict[tuple[str, EvaluationConfig], list[float]] = {}

    def distilled(self, **changes: Any) -> list[float]:
        return self._measure("distilled", changes, lambda one: judge(
            one, self.held, self._distilled, done=self._done))  # fmt: skip

    def random(self, **changes: Any) -> list[float]:
        return self._measure("random", changes, lambda one: judge_random_subsets(
            one, self.data, self.held, self._distilled, done=self._done))  # fmt: skip

    def all_data(self, **changes: Any) -> list[float]:
        return self._measure("all", changes, lambda one: judge_all_data(
            one, self.data, self.held, self._distilled, done=self._done))  # fmt: skip

    def _measure(self, of: str, changes: dict[str, Any], run: Callable) -> list[float]:
        evaluation = replace(self.config.evaluation, **changes)
        key = of, evaluation
        if key not in self._seen:
            self._seen[key] = run(replace(self.config, evaluation=evaluation))
        return self._seen[key]


def _judge(judges: _Judges, asked: EvaluateConfig) -> Evaluation:
    evaluation = judges.config.evaluation
    distilled = tuple(judges.distilled())
    random = tuple(judges.random()) if asked.baseline or asked.ranking else None
    ranking = None
    if random is not None and asked.ranking:
        ranking = Ranking(
            *(
                float(np.mean(accuracies))
                for accuracies in (
                    distilled,
                    random,
                    judges.distilled(labels="hard"),
                    judges.all_data(steps=asked.full_steps or evaluation.steps),
                    judges.distilled(augment=True),
                    judges.random(augment=True),
                    judges.distilled(augment=False),
                    judges.random(augment=False),
                )
            )
        )
    return Evaluation(
        evaluation.network,
        evaluation.norm or str(judges.config.norm),
        Accuracies(distilled, random),
        ranking,
    )


def _open(asked: EvaluateConfig) -> tuple[DistilledSet | None, RunConfig]:
    """The set at the path, None if only its data set tells how to read it, and settings of a run on
    that data set, with what is known of how the set was made.
    """
    path, folder = asked.path, RunFolder(asked.path)
    if not path.exists():
        raise ValueError(
            f"path={str(path)!r} does not exist: give a run's folder, an exported folder or an "
            ".npz file."
        )
    if folder.config.exists():
        if not folder.distilled.exists():
            raise ValueError(
                f"path={str(path)!r} holds a run that is not finished: run it to its end."
            )
        config = folder.read_config()
        distilled = folder.read_distilled()
        _check_own(asked)
        # Columns and splits are those of the run's own data set.
        return distilled, config if asked.dataset is None else _elsewhere(config, asked.dataset)
    try:
        distilled = load_hf(path) if path.is_dir() else DistilledSet.load_npz(path)
    except NoPreprocessor:
        return None, RunConfig(dataset=_named(asked.dataset, path))
    _check_own(asked)
    known = distilled.provenance
    names = ("width", "depth", "padding")
    sizes: dict[str, Any] = {n: known[n] for n in names if type(known.get(n)) is int}
    if isinstance(known.get("norm"), str):
        sizes["norm"] = known["norm"]
    return distilled, RunConfig(
        dataset=_named(asked.dataset or known.get("dataset"), path), **sizes
    )


def _check_own(asked: EvaluateConfig) -> None:
    """Raise where a set that says itself how it was preprocessed is told so."""
    if asked.zca is not None:
        raise ValueError(
            f"zca={asked.zca} is for a set made elsewhere: {str(asked.path)!r} says itself how its "
            "images were preprocessed, so leave zca out."
        )


def _named(dataset: Any, path: Path) -> str:
    if not dataset:
        raise ValueError(
            f"dataset is not known from {str(path)!r} itself: name it, e.g. --dataset cifar10."
        )
    return str(dataset)


def _elsewhere(config: RunConfig, dataset: str) -> RunConfig:
    own = {"image_column", "label_column", "train_split", "test_split", "resolution", "samples"}
    return replace(config, dataset=dataset, **dict.fromkeys(own))


def _read_foreign(asked: EvaluateConfig, data: ImageData) -> DistilledSet:
    """An .npz that does not say how its images were preprocessed: as the paper does it."""
    # Quickly, to see that it fits, before ZCA, which takes its time.
    plain = Preprocessor.fit(data.train_images, zca=False)
    distilled = DistilledSet.load_npz(asked.path, preprocessor=plain, flip=asked.flip)
    check_fit(distilled, data)
    check_preprocessed(distilled.images, asked.path)
    whiten = data.image_shape[2] == 3 if asked.zca is None else asked.zca
    fitted = Preprocessor.fit(data.train_images, zca=True) if whiten else plain
    return replace(distilled, preprocessor=fitted)
