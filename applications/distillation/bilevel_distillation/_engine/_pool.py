"""A pool of partly trained networks, stacked on the device."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, Scalar

from .._problem import Coreset, squared_error
from .._running import accumulate, compiled, part_size
from ..networks import AbstractNetwork, has_batch_norm, refresh_statistics

MakeNetwork = Callable[[PRNGKeyArray], AbstractNetwork]
Loss = Callable[[Float[Array, "n classes"], Float[Array, "n classes"]], Scalar]


class Pool(eqx.Module):
    """Networks at different stages of training on the coreset.

    Attributes:
        networks: all networks, every array stacked along a first axis of the pool's size.
        optimisers: their optimiser states, stacked likewise.
        ages: how many training steps each has had; shape (models,).
    """

    networks: AbstractNetwork
    optimisers: Any
    ages: Int[Array, " models"]


class Member(eqx.Module):
    """One network of a pool."""

    network: AbstractNetwork
    optimiser: Any
    age: Int[Array, ""]


def make_member(make_network: MakeNetwork, optimiser, key: PRNGKeyArray) -> Member:
    network = eqx.nn.inference_mode(make_network(key))
    return Member(
        network, optimiser.init(eqx.filter(network, eqx.is_inexact_array)), jnp.asarray(0)
    )


@compiled
def make_pool(make_network: MakeNetwork, optimiser, models: int, key: PRNGKeyArray) -> Pool:
    """`models` fresh networks."""
    members = eqx.filter_vmap(lambda k: make_member(make_network, optimiser, k))(
        jax.random.split(key, models)
    )
    return Pool(members.network, members.optimiser, members.age)


def take(pool: Pool, index: Int[Array, ""]) -> Member:
    """One network of the pool."""

    def at(stacked):
        return jax.tree.map(lambda leaf: leaf[index] if eqx.is_array(leaf) else leaf, stacked)

    return Member(at(pool.networks), at(pool.optimisers), at(pool.ages))


def put(pool: Pool, index: Int[Array, ""], member: Member) -> Pool:
    """The pool with one network replaced."""

    def at(stacked, one):
        return jax.tree.map(
            lambda leaf, new: leaf.at[index].set(new) if eqx.is_array(leaf) else leaf, stacked, one
        )

    return Pool(
        at(pool.networks, member.network),
        at(pool.optimisers, member.optimiser),
        at(pool.ages, member.age),
    )


def train_step(
    member: Member,
    optimiser: Any,
    coreset: Coreset,
    microbatch: int | None = None,
    loss: Loss = squared_error,
) -> Member:
    """One step on a loss over the whole coreset (standard dynamics)."""
    return train_on(member, optimiser, _support(coreset), microbatch, loss)


def train_on(
    member: Member,
    optimiser,
    rows: tuple[Float[Array, "n height width channels"], Float[Array, "n classes"]],
    microbatch: int | None = None,
    loss: Loss = squared_error,
) -> Member:
    """One step on a loss over these images and labels.

    Batch normalisation takes the statistics of all of them, which then go through the network at
    once.
    """
    total = rows[0].shape[0]
    if has_batch_norm(member.network):
        size = None
    else:
        size = part_size(member.network, rows[0], microbatch)

    def of(part):
        images, targets = part
        return _gradient(loss, member.network, images, targets, total), None

    gradient, _ = accumulate(of, rows, size)
    return _update(member, optimiser, gradient)


@compiled
def _support(coreset: Coreset):
    return coreset.support()


@compiled
def _gradient(loss: Loss, network: AbstractNetwork, images, targets, total: int):
    """The gradient of these images' part in a mean over `total`."""

    def share(network) -> Scalar:
        outputs = eqx.nn.inference_mode(network, False)(images)
        return loss(outputs, targets) * (images.shape[0] / total)

    return eqx.filter_grad(share)(network)


def with_statistics(network: AbstractNetwork, coreset: Coreset) -> AbstractNetwork:
    """The network with the statistics of the coreset in its batch normalisation, if it has any."""
    return _refreshed(network, coreset) if has_batch_norm(network) else network


@compiled
def _refreshed(network: AbstractNetwork, coreset: Coreset):
    return refresh_statistics(network, coreset.support()[0])


@compiled
def _update(member: Member, optimiser, gradient) -> Member:
    weights = eqx.filter(member.network, eqx.is_inexact_array)
    updates, state = optimiser.update(gradient, member.optimiser, weights)
    return Member(eqx.apply_updates(member.network, updates), state, member.age + 1)
