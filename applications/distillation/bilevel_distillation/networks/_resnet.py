"""ResNet-18 for small images."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._base import AbstractNetwork, Dense
from ._layers import NormalizedConvolution, check_pixels, check_sides, relu


class ResidualBlock(eqx.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where shapes change."""

    first: NormalizedConvolution
    second: NormalizedConvolution
    shortcut: NormalizedConvolution | None
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int,
        norm: str,
        activation: Callable[[Array], Array],
        dtype: Any,
        key: PRNGKeyArray,
    ):
        keys = jax.random.split(key, 3)
        how: dict[str, Any] = dict(norm=norm, dtype=dtype)
        self.first = NormalizedConvolution(inputs, outputs, stride=stride, key=keys[0], **how)
        self.second = NormalizedConvolution(outputs, outputs, key=keys[1], **how)
        self.shortcut = None
        if stride > 1 or inputs != outputs:
            self.shortcut = NormalizedConvolution(
                inputs, outputs, size=1, stride=stride, padding=0, key=keys[2], **how
            )
        self.activation = activation

    def __call__(self, x: Float[Array, "n h w inputs"]) -> Float[Array, "n h2 w2 outputs"]:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.activation(self.second(self.activation(self.first(x))) + shortcut)


class ResNet18(AbstractNetwork):
    """ResNet-18 (He et al., 2015) for small images: the first convolution is 3x3 of stride 1, and
    no pooling follows it.

    Four stages of two blocks, of 64 to 512 channels, then the mean over all pixels and a linear
    layer.

    Attributes:
        first: the first convolution, with its normalisation.
        blocks: the eight residual blocks.
        head: the last layer.
        activation: applied after each normalisation, and after each sum.
    """

    first: NormalizedConvolution
    blocks: list[ResidualBlock]
    head: Dense
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        *,
        width: int = 64,
        padding: int = 0,
        norm: str = "none",
        activation: Callable[[Array], Array] = relu,
        dtype: Any = None,
        key: PRNGKeyArray,
    ):
        """
        Args:
            width: channels of the first stage; each further one has twice as many.

        The others are those of `ConvNet`.

        Raises:
            ValueError: images below 8 x 8 pixels, padding included; an unknown norm.
        """
        height, breadth, channels = image_shape
        check_sides(height, breadth, padding)
        keys = jax.random.split(key, 10)
        self.first = NormalizedConvolution(
            channels, width, padding=1 + padding, norm=norm, dtype=dtype, key=keys[0]
        )
        blocks, inputs = [], width
        for i, one in enumerate(keys[1:9]):
            outputs = width * 2 ** (i // 2)
            blocks.append(
                ResidualBlock(
                    inputs, outputs, stride=2 if outputs > inputs else 1, norm=norm,
                    activation=activation, dtype=dtype, key=one,
                )
            )  # fmt: skip
            inputs = outputs
        # Each of the last three stages halves the image, and rounds up.
        check_pixels(blocks[-1].second, *(-(-(n + 2 * padding) // 8) for n in (height, breadth)))
        self.blocks = blocks
        self.head = Dense(inputs, classes, dtype=dtype, key=keys[9])
        self.activation = activation

    def features(self, x: Float[Array, "n height width channels"]) -> Float[Array, "n features"]:
        x = self.activation(self.first(x))
        for block in self.blocks:
            x = block(x)
        return jnp.mean(x, (1, 2))
