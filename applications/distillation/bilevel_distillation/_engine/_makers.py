"""Which networks distil, and which judge."""

from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._config import RunConfig
from ..networks import AbstractNetwork, Dense, make_network, relu, smooth_relu
from ._pool import MakeNetwork


@cache
def network_maker(
    name: str, image_shape: tuple[int, int, int], classes: int, *, smooth: bool, **sizes: Any
) -> MakeNetwork:
    """A function from a key to a fresh network; the same object for the same settings."""
    activation = smooth_relu if smooth else relu

    def make(key):
        return make_network(
            name, image_shape, classes, activation=activation, dtype=jnp.float32, key=key, **sizes
        )

    return make


def distilling_maker(config: RunConfig, shape: tuple[int, int, int], classes: int) -> MakeNetwork:
    names = ("width", "depth", "padding", "norm")
    sizes = {name: getattr(config, name) for name in names}
    return network_maker("convnet", shape, classes, smooth=bool(config.smooth), **sizes)


def judging_maker(config: RunConfig, shape: tuple[int, int, int], classes: int) -> MakeNetwork:
    """Networks as `config.evaluation` has them."""
    asked = config.evaluation
    return network_maker(
        asked.network,
        shape,
        classes,
        smooth=False,
        width=asked.width or (config.width if asked.network == "convnet" else None),
        depth=config.depth,
        padding=config.padding,
        doubling=asked.doubling,
        norm=asked.norm or config.norm,
    )


def check_network(
    make_network: MakeNetwork, shape: tuple[int, int, int], classes: int, name: str = "make_network"
) -> None:
    """Raise where `name` makes a network that does not fit; nothing is computed."""
    network = eqx.filter_eval_shape(make_network, jax.random.key(0))
    if not isinstance(network, AbstractNetwork):
        raise ValueError(
            f"{name} gives a {type(network).__name__}: make a subclass of "
            "bilevel_distillation.networks.AbstractNetwork of it."
        )
    if not isinstance(network.head, Dense):
        raise ValueError(
            f"{name} gives a network whose head is a {type(network.head).__name__}: make it a "
            "bilevel_distillation.networks.Dense, which takes all rows of the features at once."
        )
    images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    outputs = eqx.filter_eval_shape(lambda network, images: network(images), network, images)
    if outputs.shape != (2, classes):
        raise ValueError(
            f"{name} gives a network with outputs of shape {outputs.shape} for 2 images: "
            f"make it {(2, classes)}, one for each class."
        )


def check_judges(config: RunConfig, shape: tuple[int, int, int], classes: int) -> None:
    """Raise where the networks that judge do not fit the images."""
    name = f"network={config.evaluation.network!r}"
    check_network(judging_maker(config, shape, classes), shape, classes, name)
