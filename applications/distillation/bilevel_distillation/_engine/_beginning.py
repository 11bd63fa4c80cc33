"""A distillation that begins from a set which was made before."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from .._artifacts import (
    DistilledSet,
    NoPreprocessor,
    check_preprocessed,
    match_classes,
    read_distilled,
)
from .._config import INITS, RunConfig
from ..data import ImageData, Preprocessor


def beginning_of(
    config: RunConfig, data: ImageData, kept: DistilledSet | None = None
) -> DistilledSet | None:
    """The set that `config.init` names, sorted by class; None where it names none. `kept` is that
    set where it has been read before.

    Raises:
        ValueError: there is none, or it is not one of these data, or has another number of images.
    """
    if config.init is None or config.init in INITS:
        return None
    distilled = kept or _read(config, data)
    shape, classes = distilled.images.shape[1:], distilled.labels.shape[1]
    if shape != data.image_shape or classes != data.classes:
        raise ValueError(
            f"init={config.init!r} holds images of shape {shape} and {classes} classes, but "
            f"dataset={data.name!r} has {data.image_shape} and {data.classes}: give a set that was "
            "made of such data."
        )
    distilled = match_classes(distilled, data)
    counts = np.bincount(distilled.classes, minlength=classes)
    if np.any(counts != config.ipc):
        found = f"{counts.min()}" + (f" to {counts.max()}" if counts.min() < counts.max() else "")
        raise ValueError(
            f"init={config.init!r} holds {found} images of a class, and ipc={config.ipc} asks for "
            "others: give --ipc as the set has it, of which each class needs as many."
        )
    whitened = distilled.preprocessor.whitening is not None
    if config.zca is not None and config.zca != whitened:
        raise ValueError(
            f"zca={config.zca} is not how the images of init={config.init!r} were preprocessed: "
            "leave zca out."
        )
    order = np.argsort(distilled.classes, kind="stable")
    images, labels, of = (one[order] for one in (
        distilled.images, distilled.labels, distilled.classes))  # fmt: skip
    return replace(distilled, images=images, labels=labels, classes=of)


def with_its_settings(config: RunConfig, begun: DistilledSet | None) -> RunConfig:
    """The config with what the set that it begins from says of itself, where it is open."""
    if begun is None:
        return config
    zca = begun.preprocessor.whitening is not None
    flip = begun.flip if config.flip is None else config.flip
    return replace(config, zca=zca, flip=flip)


def _read(config: RunConfig, data: ImageData) -> DistilledSet:
    path = Path(str(config.init))
    if not path.exists():
        raise ValueError(
            f"init={config.init!r} is neither a known beginning nor a path that exists: choose one "
            f"of {', '.join(INITS)}, or give a run's folder, an exported one or an .npz."
        )
    try:
        return read_distilled(path)
    except NoPreprocessor:
        pass
    # One made elsewhere is taken to be preprocessed as the paper does it.
    whiten = data.image_shape[2] == 3 if config.zca is None else config.zca
    fitted = Preprocessor.fit(data.train_images, zca=whiten)
    distilled = read_distilled(path, fitted)
    check_preprocessed(distilled.images, path)
    return distilled
