"""The ConvNet that distils."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from ._base import AbstractNetwork, Dense
from ._layers import Convolution, average_pool, relu
from ._normalization import make_normalization


class ConvNet(AbstractNetwork):
    """`depth` times (3x3 convolution, normalisation, activation, 2x2 average pooling), then a
    linear layer.

    The width doubles at each layer (as in FRePo and RCIG), or stays (as in later comparisons).

    Attributes:
        layers: the convolutions.
        norms: the normalisation after each of them.
        head: the last layer.
        activation: applied after each normalisation.
    """

    layers: list[Convolution]
    norms: list[Callable[[Array], Array]]
    head: Dense
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        *,
        width: int = 128,
        depth: int = 3,
        padding: int = 0,
        doubling: bool = True,
        norm: str = "none",
        activation: Callable[[Array], Array] = relu,
        dtype: Any = None,
        key: PRNGKeyArray,
    ):
        """
        Args:
            image_shape: height, width and channels.
            classes: number of outputs.
            width: channels of the first layer.
            depth: number of convolutions, each of which halves the image.
            padding: pixels added around the image in the first layer (28 becomes 32 by 2).
            doubling: whether each layer has twice the channels of the one before.
            norm: none, batch, instance, group or layer.
            activation: e.g. `relu`, or `smooth_relu` while distilling.
            dtype: of the weights; None: jax's default.
            key: for the weights.

        Raises:
            ValueError: an image size that `depth` poolings cannot halve; an unknown norm.
        """
        height, breadth, channels = image_shape
        check_size(height, breadth, depth, padding)
        keys = jax.random.split(key, depth + 1)
        layers, norms, inputs = [], [], channels
        for i in range(depth):
            outputs = width * 2**i if doubling else width
            extra = padding if i == 0 else 0
            layers.append(Convolution(inputs, outputs, padding=1 + extra, dtype=dtype, key=keys[i]))
            norms.append(make_normalization(norm, outputs, dtype))
            inputs = outputs
        side = ((height + 2 * padding) // 2**depth) * ((breadth + 2 * padding) // 2**depth)
        self.layers, self.norms = layers, norms
        self.head = Dense(side * inputs, classes, dtype=dtype, key=keys[-1])
        self.activation = activation

    def features(self, x: Float[Array, "n height width channels"]) -> Float[Array, "n features"]:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = average_pool(self.activation(norm(layer(x))))
        return x.reshape(x.shape[0], -1)


def check_size(height: int, width: int, depth: int, padding: int) -> None:
    """Raise where `depth` poolings cannot halve the padded image."""
    if depth < 1:
        raise ValueError(f"depth={depth} leaves no layer: give 1 or more.")
    for size in (height, width):
        padded = size + 2 * padding
        if padded % 2**depth or padded < 2**depth:
            raise ValueError(
                f"images of {height} x {width} pixels with padding={padding} cannot be halved "
                f"depth={depth} times: choose another depth, padding or resolution, so that "
                f"{2**depth} divides {padded}."
            )
