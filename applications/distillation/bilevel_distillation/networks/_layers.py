"""Convolutions, poolings and activations."""

import math
from collections.abc import Callable
from functools import reduce
from itertools import chain
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from ._normalization import GroupNorm, make_normalization


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
    """A square convolution, LeCun-normal weights, zero bias; images are channels-last."""

    weight: Float[Array, "size size inputs outputs"]
    bias: Float[Array, " outputs"]
    padding: int = eqx.field(static=True)
    stride: int = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        size: int = 3,
        stride: int = 1,
        padding: int = 1,
        dtype: Any = None,
        key: PRNGKeyArray,
    ):
        shape = (size, size, inputs, outputs)
        self.weight = jax.random.normal(key, shape, dtype) / math.sqrt(size**2 * inputs)
        self.bias = jnp.zeros(outputs, dtype)
        self.padding, self.stride = padding, stride

    def __call__(self, x: Float[Array, "n h w inputs"]) -> Float[Array, "n h2 w2 outputs"]:
        around, step = (self.padding, self.padding), self.stride
        # XLA's CPU convolutions are slower than patches times a matrix, tens of times in its loops.
        if jax.default_backend() == "cpu":
            x = jnp.pad(x, ((0, 0), around, around, (0, 0)))
            out = _product_with_patches(x, self.weight, step)
        else:
            out = lax.conv_general_dilated(
                x,
                self.weight,
                (step, step),
                (around, around),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        return out + self.bias[None, None, None, :]


SHORTEST = 64
"""Numbers in a row of a patch from which each row of the kernel is a product of its own: XLA makes
the patches of one product on one core, those of several on all.
"""


def _product_with_patches(x, weight, step: int):
    size, _, inputs, outputs = weight.shape
    height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
    rows = [
        [x[:, i : i + height : step, j : j + width : step] for j in range(size)]
        for i in range(size)
    ]
    if size * inputs < SHORTEST:
        rows = [list(chain(*rows))]
    products = [
        jnp.concatenate(row, axis=-1).reshape(-1, kernel.shape[0]) @ kernel
        for row, kernel in zip(rows, weight.reshape(len(rows), -1, outputs), strict=True)
    ]
    return sum(products[1:], products[0]).reshape(*rows[0][0].shape[:-1], outputs)


class NormalizedConvolution(eqx.Module):
    """A convolution and the normalisation after it."""

    convolution: Convolution
    norm: Callable[[Array], Array]

    def __init__(self, inputs: int, outputs: int, *, norm: str, dtype: Any = None, **how: Any):
        self.convolution = Convolution(inputs, outputs, dtype=dtype, **how)
        self.norm = make_normalization(norm, outputs, dtype)

    def __call__(self, x: Float[Array, "n h w inputs"]) -> Float[Array, "n h2 w2 outputs"]:
        return self.norm(self.convolution(x))


def average_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h/2 w/2 c"]:
    """Mean over 2x2 squares."""
    window = (1, 2, 2, 1)
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, window, window, "VALID") / 4


def max_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h//2 w//2 c"]:
    """Maximum over 2x2 squares; an odd last row or column is left out."""
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    corners = [x[:, i:height:2, j:width:2] for i in range(2) for j in range(2)]
    return reduce(jnp.maximum, corners)


SMALLEST = 8


def check_sides(height: int, width: int, padding: int) -> None:
    """Raise where the padded image is too small for what halves it three times and more."""
    if padding < 0:
        raise ValueError(f"padding={padding} is negative: give 0 or more.")
    if min(height, width) + 2 * padding < SMALLEST:
        raise ValueError(
            f"images of {height} x {width} pixels with padding={padding} are too small for this "
            f"network: give padding or a resolution that makes {SMALLEST} x {SMALLEST} of them."
        )


def check_pixels(layer: NormalizedConvolution, height: int, width: int) -> None:
    """Raise where what a layer standardises is one number, which it would make zero."""
    norm = layer.norm
    if height * width == 1 and isinstance(norm, GroupNorm) and norm.groups == norm.scale.size:
        raise ValueError(
            f"norm standardises each of {norm.groups} channels alone, and images so small have "
            "single pixels there: give norm='none', 'batch' or 'layer', or a higher resolution."
        )
