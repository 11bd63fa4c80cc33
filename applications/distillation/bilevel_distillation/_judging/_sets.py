"""The sets that are judged: a run's, exported ones, and those made elsewhere."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from .._artifacts import (
    DistilledSet,
    NoPreprocessor,
    RunFolder,
    check_fit,
    check_preprocessed,
    load_hf,
)
from .._config import EvaluateConfig, RunConfig
from ..data import ImageData, Preprocessor


def open_set(asked: EvaluateConfig) -> tuple[DistilledSet | None, RunConfig]:
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
    if type(known.get("held_out")) is int:
        sizes["held_out"] = known["held_out"]
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


def read_foreign(asked: EvaluateConfig, data: ImageData) -> DistilledSet:
    """An .npz that does not say how its images were preprocessed: as the paper does it."""
    # Quickly, to see that it fits, before ZCA, which takes its time.
    plain = Preprocessor.fit(data.train_images, zca=False)
    distilled = DistilledSet.load_npz(asked.path, preprocessor=plain, flip=asked.flip)
    check_fit(distilled, data)
    check_preprocessed(distilled.images, asked.path)
    whiten = data.image_shape[2] == 3 if asked.zca is None else asked.zca
    fitted = Preprocessor.fit(data.train_images, zca=True) if whiten else plain
    return replace(distilled, preprocessor=fitted)
