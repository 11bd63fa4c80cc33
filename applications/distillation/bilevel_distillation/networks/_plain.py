"""VGG-11 and AlexNet for small images: convolutions and poolings in one chain."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from ._base import AbstractNetwork, Dense
from ._layers import NormalizedConvolution, check_pixels, check_sides, max_pool, relu


class AbstractChain(AbstractNetwork):
    """Convolutions, each with a normalisation and an activation and some with a 2x2 maximum
    pooling after it, then a linear layer.

    A pooling that would leave less than one pixel is left out, so that images may be smaller than
    the 32 pixels that the networks are made for.

    Attributes:
        layers: the convolutions with their normalisations.
        head: the last layer.
        activation: applied after each normalisation.
    """

    layers: list[NormalizedConvolution]
    head: Dense
    activation: Callable[[Array], Array] = eqx.field(static=True)

    shape: ClassVar[tuple[tuple[int, float, bool], ...]]
    """For each convolution its size, its channels in units of the width, whether it is pooled."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        *,
        width: int,
        padding: int = 0,
        norm: str = "none",
        activation: Callable[[Array], Array] = relu,
        dtype: Any = None,
        key: PRNGKeyArray,
    ):
        height, breadth, channels = image_shape
        check_sides(height, breadth, padding)
        keys = jax.random.split(key, len(self.shape) + 1)
        sides = height + 2 * padding, breadth + 2 * padding
        layers, inputs, extra = [], channels, padding
        for (size, share, pooled), one in zip(self.shape, keys[:-1], strict=True):
            outputs = max(1, int(share * width))
            layers.append(
                NormalizedConvolution(
                    inputs, outputs, size=size, padding=size // 2 + extra, norm=norm,
                    dtype=dtype, key=one,
                )
            )  # fmt: skip
            check_pixels(layers[-1], *sides)
            if pooled and min(sides) >= 2:
                sides = sides[0] // 2, sides[1] // 2
            inputs, extra = outputs, 0
        self.layers = layers
        self.head = Dense(sides[0] * sides[1] * inputs, classes, dtype=dtype, key=keys[-1])
        self.activation = activation

    def features(self, x: Float[Array, "n height width channels"]) -> Float[Array, "n features"]:
        for layer, (_, _, pooled) in zip(self.layers, self.shape, strict=True):
            x = self.activation(layer(x))
            if pooled and min(x.shape[1:3]) >= 2:
                x = max_pool(x)
        return x.reshape(x.shape[0], -1)


class VGG11(AbstractChain):
    """VGG-11 (Simonyan and Zisserman, 2014) with one linear layer, as it is used for small images.

    Eight 3x3 convolutions of 64 to 512 channels (`width` is the first's), five 2x2 maximum
    poolings. Arguments as in `ConvNet`, which has a `depth` besides.
    """

    shape: ClassVar[tuple[tuple[int, float, bool], ...]] = (
        (3, 1, True), (3, 2, True), (3, 4, False), (3, 4, True),
        (3, 8, False), (3, 8, True), (3, 8, False), (3, 8, True),
    )  # fmt: skip

    def __init__(
        self, image_shape: tuple[int, int, int], classes: int, *, width: int = 64, **settings: Any
    ):
        super().__init__(image_shape, classes, width=width, **settings)


class AlexNet(AbstractChain):
    """AlexNet (Krizhevsky et al., 2012) in its version for images of 32 pixels.

    Five convolutions (5x5, 5x5 and three of 3x3) of 128, 192, 256, 192 and 192 channels (`width`
    is the first's), three 2x2 maximum poolings, one linear layer. Arguments as in `ConvNet`, which
    has a `depth` besides.
    """

    shape: ClassVar[tuple[tuple[int, float, bool], ...]] = (
        (5, 1, True), (5, 1.5, True), (3, 2, False), (3, 1.5, False), (3, 1.5, True),
    )  # fmt: skip

    def __init__(
        self, image_shape: tuple[int, int, int], classes: int, *, width: int = 128, **settings: Any
    ):
        super().__init__(image_shape, classes, width=width, **settings)
