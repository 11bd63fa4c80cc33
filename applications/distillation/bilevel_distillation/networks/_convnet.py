import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from ._base import AbstractNetwork, Dense


def relu(x: Array) -> Array:
    return jax.nn.relu(x)


@jax.custom_jvp
def smooth_relu(x: Array) -> Array:
    """softplus(60 x) / 60: a ReLU with smooth derivatives, used while distilling."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-60 * jnp.abs(x))) / 60


@smooth_relu.defjvp
def _smooth_relu_jvp(primals, tangents):
    # jax.nn.softplus derives its slope through logaddexp: a linearised pass takes 1.5 times longer.
    (x,), (t,) = primals, tangents
    return smooth_relu(x), jax.nn.sigmoid(60 * x) * t


class Convolution(eqx.Module):
    """A 3x3 convolution, stride 1, LeCun-normal weights, zero bias; images are channels-last."""

    weight: Float[Array, "3 3 inputs outputs"]
    bias: Float[Array, " outputs"]
    padding: int = eqx.field(static=True)

    def __init__(
        self, inputs: int, outputs: int, *, padding: int = 1, dtype: Any = None, key: PRNGKeyArray
    ):
        shape = (3, 3, inputs, outputs)
        self.weight = jax.random.normal(key, shape, dtype) / math.sqrt(9 * inputs)
        self.bias = jnp.zeros(outputs, dtype)
        self.padding = padding

    def __call__(self, x: Float[Array, "n h w inputs"]) -> Float[Array, "n h2 w2 outputs"]:
        around = (self.padding, self.padding)
        # XLA's CPU convolutions are slower than patches times a matrix, tens of times in its loops.
        if jax.default_backend() == "cpu":
            x = jnp.pad(x, ((0, 0), around, around, (0, 0)))
            height, width = x.shape[1] - 2, x.shape[2] - 2
            shifted = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
            weight = self.weight.reshape(-1, self.weight.shape[-1])
            out = jnp.concatenate(shifted, axis=-1) @ weight
        else:
            out = lax.conv_general_dilated(
                x, self.weight, (1, 1), (around, around), dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        return out + self.bias[None, None, None, :]


def average_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h/2 w/2 c"]:
    """Mean over 2x2 squares."""
    window = (1, 2, 2, 1)
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, window, window, "VALID") / 4


class ConvNet(AbstractNetwork):
    """`depth` times (3x3 convolution, activation, 2x2 average pooling), then a linear layer.

    The width doubles at each layer (as in FRePo and RCIG); no normalisation.

    Attributes:
        layers: the convolutions.
        head: the last layer.
        activation: applied after each convolution.
    """

    layers: list[Convolution]
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
            activation: e.g. `relu`, or `smooth_relu` while distilling.
            dtype: of the weights; None: jax's default.
            key: for the weights.

        Raises:
            ValueError: an image size that `depth` poolings cannot halve.
        """
        height, breadth, channels = image_shape
        check_size(height, breadth, depth, padding)
        keys = jax.random.split(key, depth + 1)
        layers, inputs = [], channels
        for i in range(depth):
            outputs = width * 2**i
            extra = padding if i == 0 else 0
            layers.append(Convolution(inputs, outputs, padding=1 + extra, dtype=dtype, key=keys[i]))
            inputs = outputs
        side = ((height + 2 * padding) // 2**depth) * ((breadth + 2 * padding) // 2**depth)
        self.layers = layers
        self.head = Dense(side * inputs, classes, dtype=dtype, key=keys[-1])
        self.activation = activation

    def features(self, x: Float[Array, "n height width channels"]) -> Float[Array, "n features"]:
        for layer in self.layers:
            x = average_pool(self.activation(layer(x)))
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
