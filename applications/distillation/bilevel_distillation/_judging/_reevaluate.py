"""Judging distilled sets again: a run's, an exported one, or one made elsewhere."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .._artifacts import Accuracies, DistilledSet, check_fit
from .._config import EvaluateConfig, EvaluationConfig, RunConfig, resolve
from .._engine import check_judges, load_parts, own_recipe
from .._running import Reporter
from ..data import ImageData, check_images_per_class
from ._evaluations import Cost, Evaluation, Evaluations, OfSet
from ._judge import (
    Held,
    hold,
    hold_watched,
    judge,
    judge_all_data,
    judge_random_subsets,
    match_classes,
)
from ._ranking import Ranking
from ._sets import open_set, read_foreign


def reevaluate(asked: EvaluateConfig, reporter: Reporter | None = None) -> Evaluations:
    """Judge the set at `asked.path` anew, and those of `asked.also` with it.

    Returns:
        One evaluation for each judge, or network with each normalisation, with all kinds of
        labels and recipes that were asked for.

    Raises:
        ValueError: no distilled set is there, or it does not fit the data set or a network.
    """
    reporter = reporter or Reporter()
    scenes = _scenes(asked, reporter)
    configs = [config for config, _ in scenes[0].configs]
    kinds = len(configs)
    total = len(scenes) * sum(_sets(config.evaluation, asked) for config in configs)
    reporter.begin("evaluating", total * asked.evaluation.repeats, 0)

    def done(accuracy: float) -> None:
        reporter.advance(1, accuracy=accuracy)

    evaluations = Evaluations()
    for kind in range(kinds):
        found = [_judge(_Judges(scene, kind, done), asked) for scene in scenes]
        evaluations.append(found[0] if len(found) == 1 else Evaluation.over(found))
    reporter.end()
    return evaluations


def _sets(evaluation: EvaluationConfig, asked: EvaluateConfig) -> int:
    """How many sets are trained on, for one evaluation of one distilled set."""
    if asked.ranking:
        return 6 if evaluation.labels == "soft" else 5
    return 1 + asked.baseline


@dataclass(frozen=True, eq=False)
class _Scene:
    """A set, what it is judged on, and by whom: complete settings, and the recipe's name."""

    asked: EvaluateConfig
    distilled: DistilledSet
    data: ImageData
    apart: ImageData | None
    held: Held
    configs: list[tuple[RunConfig, str]]


def _scenes(asked: EvaluateConfig, reporter: Reporter) -> list[_Scene]:
    """One for each set, all checked."""
    scenes: list[_Scene] = []
    for path in (asked.path, *asked.also):
        one = replace(asked, path=path)
        distilled, config = open_set(one)
        first = scenes[0] if scenes else None
        if first is not None:
            _check_alike(path, config, first.configs[0][0])
        if first is None or config.samples is not None:
            data, apart = load_parts(config)
        else:
            data, apart = first.data, first.apart
        if distilled is None:
            distilled = read_foreign(one, data)
        elif asked.flip is not None:
            distilled = replace(distilled, flip=asked.flip)
        check_fit(distilled, data)
        distilled = match_classes(distilled, data, reporter.say)
        configs = _configs(one, config, distilled, data)
        alike = first is not None and _is_same(first.distilled, distilled)
        held = first.held if first is not None and alike else hold(data, distilled.preprocessor)
        scenes.append(_Scene(one, distilled, data, apart, held, configs))
    return scenes


def _is_same(one: DistilledSet, other: DistilledSet) -> bool:
    """Whether two sets preprocess test images alike."""
    arrays, others = one.preprocessor.to_arrays(), other.preprocessor.to_arrays()
    return arrays.keys() == others.keys() and all(
        np.array_equal(array, others[name]) for name, array in arrays.items()
    )


def _check_alike(path: Any, config: RunConfig, first: RunConfig) -> None:
    for name in ("dataset", "held_out"):
        found, wanted = getattr(config, name), getattr(first, name)
        if found != wanted:
            raise ValueError(
                f"also={str(path)!r} was made with {name}={found!r}, and path with {wanted!r}: "
                "give sets that were made of the same images."
            )


def _configs(
    asked: EvaluateConfig, config: RunConfig, distilled: DistilledSet, data: ImageData
) -> list[tuple[RunConfig, str]]:
    """Complete settings for each network with each normalisation, labels and recipe, checked."""
    ipc = max(1, len(distilled.images) // data.classes)
    if asked.baseline or asked.ranking:
        check_images_per_class(data, ipc)
    sizes = {name: getattr(asked, name) for name in ("depth", "padding")}
    given = {name: value for name, value in sizes.items() if value is not None}
    config = replace(config, ipc=ipc, seed=asked.seed, **given)
    config = replace(config, zca=distilled.preprocessor.whitening is not None)
    configs = []
    for evaluation in asked.evaluations():
        for recipe in asked.recipe:
            changed = evaluation
            if recipe == "own":
                method = distilled.provenance.get("method")
                settings = own_recipe(
                    method if isinstance(method, str) else None, len(distilled.images)
                )
                changed = replace(evaluation, **settings)
            one = replace(config, evaluation=changed)
            one = resolve(one, data.image_shape, data.classes)
            check_judges(one, data.image_shape, data.classes)
            configs.append((one, recipe))
    return configs


class _Judges:
    """Accuracies by one recipe and by changes of it, each measured once."""

    def __init__(self, scene: _Scene, kind: int, done: Callable[[float], None]):
        self.scene = scene
        self.config, self.recipe = scene.configs[kind]
        self.noted: list[float] = []
        self._done = done
        watched = hold_watched(self.config, scene.data, scene.apart, scene.distilled.preprocessor)
        self._more: dict[str, Any] = {} if watched is None else {"watched": watched}
        self._seen: dict[tuple[str, EvaluationConfig], list[float]] = {}

    def distilled(self, **changes: Any) -> list[float]:
        scene, more = self.scene, dict(self._more)
        if more and not changes:
            more["noted"] = self.noted.append
        return self._measure("distilled", changes, lambda one: judge(
            one, scene.held, scene.distilled, done=self._done, **more))  # fmt: skip

    def random(self, **changes: Any) -> list[float]:
        scene = self.scene
        return self._measure("random", changes, lambda one: judge_random_subsets(
            one, scene.data, scene.held, scene.distilled, done=self._done, **self._more
        ))  # fmt: skip

    def all_data(self, **changes: Any) -> list[float]:
        scene = self.scene
        return self._measure("all", changes, lambda one: judge_all_data(
            one, scene.data, scene.held, scene.distilled, done=self._done, **self._more
        ))  # fmt: skip

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
        judge=evaluation.judge,
        labels=evaluation.labels,
        recipe=judges.recipe,
        select=evaluation.select,
        sets=(
            OfSet(
                str(judges.scene.asked.path),
                distilled,
                tuple(judges.noted) or None,
                Cost.of(judges.scene.distilled.provenance),
            ),
        ),
    )
