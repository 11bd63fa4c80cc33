"""What a network is to a method: a body, and a last layer that is known."""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._normalization import is_parameter


class Dense(eqx.Module):
    """`x @ weight + bias`, LeCun-normal weights, zero bias."""

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"]

    def __init__(self, inputs: int, outputs: int, *, dtype: Any = None, key: PRNGKeyArray):
        self.weight = jax.random.normal(key, (inputs, outputs), dtype) / math.sqrt(inputs)
        self.bias = jnp.zeros(outputs, dtype)

    def __call__(self, x: Float[Array, "n inputs"]) -> Float[Array, "n outputs"]:
        return x @ self.weight + self.bias


class AbstractNetwork(eqx.Module):
    """A network of image batches that tells its last layer: what every method asks for.

    A network of your own is a subclass with a `head` and a method `features`.

    Attributes:
        head: the last layer, applied to the features.
    """

    head: eqx.AbstractVar[Dense]

    @abc.abstractmethod
    def features(self, x: Float[Array, "n height width channels"]) -> Float[Array, "n features"]:
        """The last hidden layer."""

    def features_and_outputs(
        self, x: Float[Array, "n height width channels"]
    ) -> tuple[Float[Array, "n features"], Float[Array, "n classes"]]:
        features = self.features(x)
        return features, self.head(features)

    def __call__(self, x: Float[Array, "n height width channels"]) -> Float[Array, "n classes"]:
        return self.features_and_outputs(x)[1]


def is_body(network: AbstractNetwork) -> Any:
    """Which arrays of a network are body parameters: all that are trained, but for the weight of
    the last layer.

    The last layer's bias counts as body: the closed form solves for the weight alone.
    """
    return eqx.tree_at(lambda net: net.head.weight, is_parameter(network), False)
