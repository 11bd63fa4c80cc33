"""What is learned: images, labels and a temperature."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Scalar


class Coreset(eqx.Module):
    """The outer variable psi.

    Attributes:
        images: shape (n, height, width, channels), in the space of the preprocessed data.
        labels: soft labels, centred (they begin as one-hot minus 1/classes); shape (n, classes).
        log_temperature: minus the logarithm of the Platt temperature tau; a scalar.
        flip: whether training adds the mirror image of each image.
    """

    images: Float[Array, "n height width channels"]
    labels: Float[Array, "n classes"]
    log_temperature: Scalar
    flip: bool = eqx.field(default=False, static=True)

    @property
    def rows(self) -> int:
        """How many images there are to train on."""
        return self.images.shape[0] * (2 if self.flip else 1)

    def support(
        self,
    ) -> tuple[Float[Array, "m height width channels"], Float[Array, "m classes"]]:
        """The images and labels to train on: where the coreset is flipped, twice as many."""
        if not self.flip:
            return self.images, self.labels
        images = jnp.concatenate([self.images, self.images[:, :, ::-1]])
        return images, jnp.concatenate([self.labels, self.labels])


def centred_one_hot(labels: Int[np.ndarray, " n"], classes: int) -> Float[np.ndarray, "n classes"]:
    """One-hot minus 1/classes."""
    return (np.eye(classes)[labels] - 1 / classes).astype(np.float32)


def choose_per_class(
    labels: Int[np.ndarray, " n"], classes: int, ipc: int, rng: np.random.Generator
) -> Int[np.ndarray, " m"]:
    """`ipc` random rows of each class, class by class."""
    rows = [rng.permutation(np.flatnonzero(labels == c))[:ipc] for c in range(classes)]
    return np.concatenate(rows)
