"""Normalisation of the channels of images, and the statistics of batch normalisation."""

import math
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

NormName = Literal["none", "batch", "instance", "group", "layer"]
T = TypeVar("T", bound=eqx.Module)
PerChannel = Float[Array, " channels"]

GROUPS = 32
EPSILON = 1e-5
"""Added to variances."""


class GroupNorm(eqx.Module):
    """Each image's groups of channels, standardised over pixels and channels (Wu and He, 2018).

    One group is layer normalisation, as many groups as channels instance normalisation.

    Attributes:
        scale, offset: of each channel, applied afterwards.
        groups: how many; they divide the channels.
    """

    scale: PerChannel
    offset: PerChannel
    groups: int = eqx.field(static=True)

    def __init__(self, channels: int, groups: int, *, dtype: Any = None):
        """
        Raises:
            ValueError: groups that do not divide the channels.
        """
        if groups < 1 or channels % groups:
            raise ValueError(
                f"groups={groups} does not divide {channels} channels: give one of their divisors."
            )
        self.scale, self.offset = jnp.ones(channels, dtype), jnp.zeros(channels, dtype)
        self.groups = groups

    def __call__(self, x: Float[Array, "n h w channels"]) -> Float[Array, "n h w channels"]:
        centred = x - self._mean(x)
        variance = self._mean(jnp.square(centred))
        return centred * (lax.rsqrt(variance + EPSILON) * self.scale) + self.offset

    def _mean(self, x: Float[Array, "n h w channels"]) -> Float[Array, "n 1 1 channels"]:
        """Of each channel's group."""
        # Over pixels first: one reduction of pixels and channels takes a CPU several times longer.
        each = jnp.mean(x, (1, 2), keepdims=True)
        members = x.shape[-1] // self.groups
        if members == 1:
            return each
        shared = jnp.mean(each.reshape(-1, 1, 1, self.groups, members), axis=-1)
        return jnp.repeat(shared, members, axis=-1)


class BatchNorm(eqx.Module):
    """Channels standardised over the batch, or by stored statistics (Ioffe and Szegedy, 2015).

    With `inference` (`equinox.nn.inference_mode` switches it) the stored statistics are used, so
    that each image has its outputs whatever else is in the batch; no derivative flows to them.
    `refresh_statistics` stores those of a batch: there is no moving average.

    Attributes:
        scale, offset: of each channel, applied afterwards.
        mean, variance: the stored statistics of each channel.
        inference: whether they are used.
    """

    scale: PerChannel
    offset: PerChannel
    mean: PerChannel
    variance: PerChannel
    inference: bool

    def __init__(self, channels: int, *, dtype: Any = None):
        self.scale, self.offset = jnp.ones(channels, dtype), jnp.zeros(channels, dtype)
        self.mean, self.variance = jnp.zeros(channels, dtype), jnp.ones(channels, dtype)
        self.inference = False

    def __call__(self, x: Float[Array, "n h w channels"]) -> Float[Array, "n h w channels"]:
        if self.inference:
            return self.standardize(x, *lax.stop_gradient((self.mean, self.variance)))
        return self.standardize(x, *_statistics(x))

    def standardize(self, x: Array, mean: PerChannel, variance: PerChannel) -> Array:
        return (x - mean) * (self.scale * lax.rsqrt(variance + EPSILON)) + self.offset


def _statistics(x) -> tuple[PerChannel, PerChannel]:
    mean = jnp.mean(x, (0, 1, 2))
    return mean, jnp.mean(jnp.square(x - mean), (0, 1, 2))


def make_normalization(name: str, channels: int, dtype: Any = None) -> Callable[[Array], Array]:
    """The normalisation layer of that name; "group" has 32 groups, or fewer that divide.

    Raises:
        ValueError: an unknown name.
    """
    match name:
        case "none":
            return eqx.nn.Identity()
        case "batch":
            return BatchNorm(channels, dtype=dtype)
        case "instance":
            return GroupNorm(channels, channels, dtype=dtype)
        case "group":
            return GroupNorm(channels, math.gcd(GROUPS, channels), dtype=dtype)
        case "layer":
            return GroupNorm(channels, 1, dtype=dtype)
    raise ValueError(f"norm={name!r} is not known: choose one of {', '.join(get_args(NormName))}.")


def _is_batch_norm(node: Any) -> bool:
    return isinstance(node, BatchNorm)


def has_batch_norm(network: Any) -> bool:
    """Whether a network has outputs that depend on the rest of the batch, or on statistics."""
    return any(map(_is_batch_norm, jax.tree.leaves(network, is_leaf=_is_batch_norm)))


def is_parameter(network: eqx.Module) -> Any:
    """Which arrays of a network are trained: all but the statistics of batch normalisation."""

    def of(node):
        spec = jax.tree.map(eqx.is_inexact_array, node)
        if not _is_batch_norm(node):
            return spec
        return eqx.tree_at(lambda norm: (norm.mean, norm.variance), spec, (False, False))

    return jax.tree.map(of, network, is_leaf=_is_batch_norm)


class _Watched(eqx.Module):
    """A layer of batch normalisation in training that tells the statistics of its batch."""

    norm: BatchNorm
    tell: Callable[[PerChannel, PerChannel], None]

    def __call__(self, x):
        mean, variance = _statistics(x)
        self.tell(mean, variance)
        return self.norm.standardize(x, mean, variance)


def refresh_statistics(network: T, images: Float[Array, "n height width channels"]) -> T:
    """The network with the statistics of these images in its layers of batch normalisation.

    It takes one forward pass, in which each of them normalises by the batch; a network without
    them is returned as it is. They are found in the tree, so a network has nothing to do for it,
    but may call them in no inner trace (`jax.checkpoint`, `lax.scan`) of its own.
    """
    if not has_batch_norm(network):
        return network
    told: dict[int, tuple[PerChannel, PerChannel]] = {}

    def replaced(replace: Callable[[int, BatchNorm], Any]):
        leaves, structure = jax.tree.flatten(network, is_leaf=_is_batch_norm)
        each = [replace(i, leaf) if _is_batch_norm(leaf) else leaf for i, leaf in enumerate(leaves)]
        return jax.tree.unflatten(structure, each)

    def watched(at, norm):
        return _Watched(norm, lambda *statistics: told.update({at: statistics}))

    def refreshed(at, norm):
        where = lambda norm: (norm.mean, norm.variance)  # noqa: E731
        return eqx.tree_at(where, norm, told[at]) if at in told else norm

    replaced(watched)(images)
    return replaced(refreshed)
