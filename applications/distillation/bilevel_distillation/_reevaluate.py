"""Judging a distilled set again: a run's, an exported one, or one made elsewhere."""

from dataclasses import replace
from typing import Any

from ._config import EvaluateConfig, RunConfig, resolve
from ._distillation import hold, judge, judge_random_subsets, load_data
from ._distilled import DistilledSet
from ._export import load_hf
from ._folder import RunFolder
from ._run import Reporter
from .data import Preprocessor


def reevaluate(asked: EvaluateConfig, reporter: Reporter | None = None) -> dict[str, Any]:
    """Accuracies as `run` reports them, for the set at `asked.path`.

    Raises:
        ValueError: no distilled set is there, or it does not fit the data set.
    """
    reporter = reporter or Reporter()
    if not asked.path.exists():
        raise ValueError(
            f"path={str(asked.path)!r} does not exist: give a run's folder or an .npz."
        )
    folder = RunFolder(asked.path)
    if folder.config.exists():
        if not folder.distilled.exists():
            raise ValueError(
                f"path={str(asked.path)!r} holds a run that is not finished: run it to its end."
            )
        distilled, config = DistilledSet.load_npz(folder.distilled), folder.read_config()
    elif asked.path.is_dir():
        distilled = load_hf(asked.path)
        config = RunConfig(dataset=str(distilled.provenance.get("dataset", "")))
    else:
        distilled, config = None, RunConfig(dataset=asked.dataset or "")
    config = replace(config, dataset=asked.dataset or config.dataset)
    if not config.dataset:
        raise ValueError(
            "dataset is not known from the set itself: name it, e.g. --dataset cifar10."
        )
    data = load_data(config)
    colour = data.image_shape[2] == 3
    if distilled is None:
        zca = colour if asked.zca is None else asked.zca
        distilled = DistilledSet.load_npz(
            asked.path, preprocessor=Preprocessor.fit(data.train_images, zca=zca)
        )
        distilled = replace(distilled, class_names=data.class_names)
        distilled = replace(distilled, flip=colour if asked.flip is None else asked.flip)
    elif asked.flip is not None:
        distilled = replace(distilled, flip=asked.flip)
    _check_fit(distilled, data)
    ipc = max(1, len(distilled.images) // data.classes)
    config = replace(config, ipc=ipc, seed=asked.seed, evaluation=asked.evaluation)
    given = {n: getattr(asked, n) for n in ("width", "depth", "padding") if getattr(asked, n)}
    config = resolve(replace(config, **given), data.image_shape)
    held = hold(data, distilled.preprocessor)
    networks = config.evaluation.networks
    reporter.begin("evaluating", networks * (2 if asked.baseline else 1), 0)

    def done(accuracy: float) -> None:
        reporter.advance(1, accuracy=accuracy)

    results = {"distilled": judge(config, held, distilled, done=done)}
    if asked.baseline:
        results["random_subset"] = judge_random_subsets(config, data, held, distilled, done=done)
    reporter.end()
    return results


def _check_fit(distilled: DistilledSet, data) -> None:
    shape, classes = distilled.images.shape[1:], distilled.labels.shape[1]
    if shape != data.image_shape or classes != data.classes:
        raise ValueError(
            f"the distilled set has images of shape {shape} and {classes} classes, but "
            f"dataset={data.name!r} has {data.image_shape} and {data.classes}: name the data set "
            "that it was distilled from."
        )
