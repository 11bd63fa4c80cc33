"""A pool of partly trained networks, stacked on the device."""

from collections.abc import Callable
from functools import reduce

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree, Scalar

from ._coreset import Coreset
from ._losses import squared_error
from ._parts import add, compiled, in_parts, slices
from .networks import AbstractNetwork

MakeNetwork = Callable[[PRNGKeyArray], AbstractNetwork]


class Pool(eqx.Module):
    """Networks at different stages of training on the coreset.

    Attributes:
        networks: all networks, every array stacked along a first axis of the pool's size.
        optimisers: their optimiser states, stacked likewise.
        ages: how many training steps each has had; shape (models,).
    """

    networks: AbstractNetwork
    optimisers: PyTree[Array]
    ages: Int[Array, " models"]


class Member(eqx.Module):
    """One network of a pool."""

    network: AbstractNetwork
    optimiser: PyTree[Array]
    age: Int[Array, ""]


def pool_optimiser(learning_rate: float) -> optax.GradientTransformation:
    return optax.adam(learning_rate)


def make_member(make_network: MakeNetwork, optimiser, key: PRNGKeyArray) -> Member:
    network = make_network(key)
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
    member: Member, optimiser, coreset: Coreset, flip: bool, microbatch: int | None = None
) -> Member:
    """One step on the squared error over the whole coreset (standard dynamics)."""
    support, targets = _support(coreset, flip)
    parts = zip(slices(support, microbatch), slices(targets, microbatch), strict=True)
    gradients = [_gradient(member.network, *part, support.shape[0], microbatch) for part in parts]
    return _update(member, optimiser, reduce(add, gradients))


@compiled
def _support(coreset: Coreset, flip: bool):
    return coreset.support(flip)


@compiled
def _gradient(network: AbstractNetwork, images, targets, total: int, microbatch: int | None):
    """Of the part of these images in a mean over `total`."""

    def loss(network) -> Scalar:
        outputs = in_parts(network, images, microbatch)
        return squared_error(outputs, targets) * (images.shape[0] / total)

    return eqx.filter_grad(loss)(network)


@compiled
def _update(member: Member, optimiser, gradient) -> Member:
    updates, state = optimiser.update(gradient, member.optimiser)
    return Member(eqx.apply_updates(member.network, updates), state, member.age + 1)
