"""A distilled set in other hands: for PyTorch, Keras and NumPy, in print and in notebooks."""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, UInt8

from ._shown import grid
from ._text import one_line

Pair = tuple[Float32[np.ndarray, "n height width channels"], Float32[np.ndarray, "n classes"]]
_TOLD = ("dataset", "method", "ipc", "iterations")


class Usable:
    """What needs nothing but the arrays of a distilled set."""

    if TYPE_CHECKING:
        images: np.ndarray
        labels: np.ndarray
        classes: np.ndarray
        class_names: tuple[str, ...]
        flip: bool
        provenance: dict[str, Any]

        @cached_property
        def display_images(self) -> UInt8[np.ndarray, "n height width channels"]: ...

    def to_numpy(self) -> Pair:
        """All that a network is trained on, as a pair of arrays (images, soft labels).

        With the mirror image of each image after them where `flip` says so. Train by squared
        error, and put the images that you test on through `preprocessor`.

        Returns:
            float32 [n, height, width, channels] and float32 [n, n_classes].

        Examples:
            >>> from bilevel_distillation import Distillation, RunConfig
            >>> distilled = Distillation(RunConfig(dataset="digits", pool_size=2)).distilled()
            >>> images, labels = distilled.to_numpy()
            >>> images.shape, labels.shape
            ((10, 8, 8, 1), (10, 10))
        """
        if not self.flip:
            return self.images, self.labels
        mirrored = self.images[:, :, ::-1]
        return np.concatenate([self.images, mirrored]), np.concatenate([self.labels] * 2)

    def to_keras(self) -> Pair:
        """The pair that Keras' `model.fit(*distilled.to_keras())` takes, channels as Keras is set
        to have them (`keras.config.image_data_format`): last, unless it says first.

        Keras need not be installed.
        """
        images, labels = self.to_numpy()
        try:
            from keras import config  # pyright: ignore[reportMissingImports]
        except ImportError:
            return images, labels
        first = config.image_data_format() == "channels_first"
        return (np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if first else images), labels

    def to_torch(self) -> Any:
        """A PyTorch `TensorDataset` of images [n, channels, height, width] and soft labels.

        Raises:
            ImportError: PyTorch is not installed.
        """
        try:
            import torch  # pyright: ignore[reportMissingImports]
            from torch.utils.data import TensorDataset  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(
                "to_torch needs PyTorch, which is not installed: pip install torch, or take the "
                "arrays of to_numpy()."
            ) from error
        images, labels = self.to_numpy()
        first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return TensorDataset(torch.from_numpy(first), torch.from_numpy(np.array(labels)))

    def __repr__(self) -> str:
        height, width, channels = self.images.shape[1:]
        told = {name: self.provenance[name] for name in _TOLD if name in self.provenance}
        return (
            f"DistilledSet({len(self.images)} images of {height} x {width} x {channels}, "
            f"{len(self.class_names)} classes{_told(told)})"
        )

    def _repr_html_(self) -> str:
        names = [one_line(self.class_names[at]) for at in self.classes]
        return grid(repr(self), self.display_images, names)


def _told(values: Mapping[str, Any]) -> str:
    return "".join(f", {name}={value!r}" for name, value in values.items())
