"""Networks by their names."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, PRNGKeyArray

from ._base import AbstractNetwork
from ._convnet import ConvNet
from ._find import find
from ._layers import relu
from ._plain import VGG11, AlexNet
from ._resnet import ResNet18

NETWORKS: dict[str, Callable[..., AbstractNetwork]] = {
    "convnet": ConvNet,
    "resnet18": ResNet18,
    "vgg11": VGG11,
    "alexnet": AlexNet,
}

GROUP = "bilevel_distillation.networks"
"""The entry points by which another package brings networks."""


def make_network(
    name: str,
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    width: int | None = None,
    depth: int | None = None,
    padding: int = 0,
    doubling: bool = True,
    norm: str = "none",
    activation: Callable[[Array], Array] = relu,
    dtype: Any = None,
    key: PRNGKeyArray,
) -> AbstractNetwork:
    """The network of that name.

    Args:
        name: convnet, resnet18, vgg11, alexnet, one that an installed package brings, or a class
            with the same arguments, package.module:Class.
        image_shape: height, width and channels.
        classes: number of outputs.
        width: channels of the first convolution; None: the usual ones (128, 64, 64 and 128).
        depth: convolutions of a ConvNet (None: 3); the others have theirs.
        padding: pixels added around the image in the first convolution.
        doubling: whether the channels of a ConvNet double at each layer.
        norm: none, batch, instance, group or layer.
        activation: applied after each normalisation.
        dtype: of the weights; None: jax's default.
        key: for the weights.

    Raises:
        ValueError: an unknown name or norm; images that are too small.
    """
    kind = find("network", name, NETWORKS, GROUP)
    settings: dict[str, Any] = dict(
        padding=padding, norm=norm, activation=activation, dtype=dtype, key=key
    )
    if width is not None:
        settings["width"] = width
    if depth is not None and kind is ConvNet:
        settings["depth"] = depth
    if not doubling and kind is ConvNet:
        settings["doubling"] = doubling
    return kind(image_shape, classes, **settings)
