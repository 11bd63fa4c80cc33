"""The real images: where they are kept, and how a meta-iteration gets its batch of them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from .._config import Storage
from ..data import Preprocessor, memory_of_machine

Bytes = UInt8[Array, "n height width channels"]
Images = Float[Array, "n height width channels"]


class Transform(eqx.Module):
    """A `Preprocessor` on the device.

    Attributes:
        scale, shift: of each channel's values from 0 to 255.
        whitening: None without ZCA.
        stride: of the images that are whitened one by one.
    """

    scale: Float[Array, " channels"]
    shift: Float[Array, " channels"]
    whitening: Float[Array, "values values"] | None
    stride: int = eqx.field(static=True)

    @staticmethod
    def make(preprocessor: Preprocessor) -> "Transform":
        whitening = preprocessor.whitening
        return Transform(
            jnp.asarray(1 / (255 * preprocessor.std)),
            jnp.asarray(preprocessor.mean / preprocessor.std),
            None if whitening is None else jnp.asarray(whitening),
            preprocessor.stride or 1,
        )

    def __call__(self, images: Bytes) -> Images:
        x = images * self.scale - self.shift
        if self.whitening is None:
            return x
        n, height, width, channels = x.shape
        s = self.stride
        apart = x.reshape(n, height // s, s, width // s, s, channels).transpose(0, 2, 4, 1, 3, 5)
        with jax.default_matmul_precision("highest"):
            flat = apart.reshape(n * s**2, -1) @ self.whitening
        return flat.reshape(apart.shape).transpose(0, 3, 1, 4, 2, 5).reshape(x.shape)


class Training(eqx.Module):
    """Real images on the device.

    Attributes:
        images: shape (n, height, width, channels); preprocessed, or bytes.
        labels: shape (n,).
        classes: their number.
        transform: what preprocesses bytes; None where the images are.
        prepared: what the method has made of all of them, if anything.
    """

    images: Images | Bytes
    labels: Int[Array, " n"]
    classes: int = eqx.field(static=True)
    transform: Transform | None = None
    prepared: Any = None

    def batch(self, rows: Int[Array, " batch"]) -> tuple[Images, Float[Array, "batch classes"]]:
        """Preprocessed images, and one-hot labels."""
        images = self.images[rows]
        if self.transform is not None:
            images = self.transform(images)
        return images, jax.nn.one_hot(self.labels[rows], self.classes, dtype=images.dtype)


def choose_storage(asked: Storage, images: np.ndarray, devices: int) -> Storage:
    """Floats in up to a quarter of the memory of the devices that share the images, bytes in up to
    half of it, else the host's memory.
    """
    if asked != "auto":
        return asked
    room = devices * _memory()
    if 4 * images.nbytes <= room / 4:
        return "floats"
    return "bytes" if images.nbytes <= room / 2 else "host"


def _memory() -> int:
    """Bytes of a device."""
    known = jax.local_devices()[0].memory_stats()
    if known is not None and "bytes_limit" in known:
        return known["bytes_limit"]
    return memory_of_machine()
