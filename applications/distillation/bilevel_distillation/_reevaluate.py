"""Judging a distilled set again: a run's, an exported one, or one made elsewhere."""

from dataclasses import replace
from typing import Any

from ._config import EvaluateConfig, RunConfig, resolve
from ._distillation import check, hold, judge, judge_random_subsets, load_data
from ._distilled import DistilledSet, NoPreprocessor
from ._export import load_hf
from ._folder import RunFolder
from ._run import Reporter
from .data import ImageData, Preprocessor


def reevaluate(asked: EvaluateConfig, reporter: Reporter | None = None) -> dict[str, Any]:
    """Accuracies as `run` reports them, for the set at `asked.path`.

    Raises:
        ValueError: no distilled set is there, or it does not fit the data set.
    """
    reporter = reporter or Reporter()
    distilled, config = _open(asked)
    if distilled is not None and asked.zca is not None:
        raise ValueError(
            f"zca={asked.zca} is for a set made elsewhere: {str(asked.path)!r} says itself how its "
            "images were preprocessed, so leave zca out."
        )
    if not config.dataset:
        raise ValueError(
            f"dataset is not known from {str(asked.path)!r} itself: name it, e.g. --dataset "
            "cifar10."
        )
    data = load_data(config)
    if distilled is None:
        distilled = _read_foreign(asked, data)
    elif asked.flip is not None:
        distilled = replace(distilled, flip=asked.flip)
    _check_fit(distilled, data)
    ipc = max(1, len(distilled.images) // data.classes)
    config = replace(config, ipc=ipc, seed=asked.seed, evaluation=asked.evaluation)
    config = replace(config, zca=distilled.preprocessor.whitening is not None)
    sizes = {name: getattr(asked, name) for name in ("width", "depth", "padding")}
    given = {name: value for name, value in sizes.items() if value is not None}
    config = resolve(replace(config, **given), data.image_shape, data.classes)
    check(config, data)
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


def _open(asked: EvaluateConfig) -> tuple[DistilledSet | None, RunConfig]:
    """The set at the path, None if only its data set tells how to read it, and how it was made."""
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
        distilled = DistilledSet.load_npz(folder.distilled)
        # Columns and splits are those of the run's own data set.
        return distilled, config if asked.dataset is None else _elsewhere(config, asked.dataset)
    try:
        distilled = load_hf(path) if path.is_dir() else DistilledSet.load_npz(path)
    except NoPreprocessor:
        return None, RunConfig(dataset=asked.dataset or "")
    known = distilled.provenance
    sizes = {name: known[name] for name in ("width", "depth", "padding") if name in known}
    return distilled, RunConfig(dataset=asked.dataset or str(known.get("dataset", "")), **sizes)


def _elsewhere(config: RunConfig, dataset: str) -> RunConfig:
    own = {"image_column", "label_column", "train_split", "test_split", "resolution"}
    return replace(config, dataset=dataset, **dict.fromkeys(own))


def _read_foreign(asked: EvaluateConfig, data: ImageData) -> DistilledSet:
    """An .npz that does not say how its images were preprocessed: as the paper does it."""
    # Quickly, to see that it fits, before ZCA, which takes its time.
    plain = Preprocessor.fit(data.train_images, zca=False)
    distilled = DistilledSet.load_npz(asked.path, preprocessor=plain, flip=asked.flip)
    _check_fit(distilled, data)
    whiten = data.image_shape[2] == 3 if asked.zca is None else asked.zca
    fitted = Preprocessor.fit(data.train_images, zca=True) if whiten else plain
    return replace(distilled, preprocessor=fitted, class_names=data.class_names)


def _check_fit(distilled: DistilledSet, data: ImageData) -> None:
    shape, classes = distilled.images.shape[1:], distilled.labels.shape[1]
    if shape != data.image_shape or classes != data.classes:
        raise ValueError(
            f"the distilled set has images of shape {shape} and {classes} classes, but "
            f"dataset={data.name!r} has {data.image_shape} and {data.classes}: name the data set "
            "that it was distilled from."
        )
