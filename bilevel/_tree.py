"""Arithmetic of pytrees of arrays, and keys that may be None."""

from functools import reduce

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray, PyTree, Scalar


def vdot(first: PyTree[Array], second: PyTree[Array]) -> Scalar:
    return jnp.asarray(optax.tree.vdot(first, second))


def largest(tree: PyTree[Array]) -> Scalar:
    """The largest absolute value; 1 where that is 0, infinite or NaN, so that one can divide."""
    most = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(tree)]
    size = reduce(jnp.maximum, most)
    return jnp.where((size > 0) & jnp.isfinite(size), size, 1).astype(size.dtype)


def divide(tree: PyTree[Array], scale: Scalar) -> PyTree[Array]:
    return jax.tree.map(lambda leaf: leaf / scale.astype(leaf.dtype), tree)


def multiply(tree: PyTree[Array], scale: Scalar) -> PyTree[Array]:
    return jax.tree.map(lambda leaf: scale.astype(leaf.dtype) * leaf, tree)


@eqx.filter_jit
def norm(tree: PyTree[Array]) -> Scalar:
    """The Euclidean norm, whose squares neither overflow nor underflow."""
    size = largest(tree)
    return size * jnp.asarray(optax.tree.norm(divide(tree, size)))


@eqx.filter_jit
def negative(tree: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(jnp.negative, tree)


def split_key(key: PRNGKeyArray | None, count: int) -> tuple[PRNGKeyArray | None, ...]:
    """`count` fresh keys, or as many times None where there is no key."""
    return (None,) * count if key is None else tuple(jax.random.split(key, count))


def check_form(found: PyTree, expected: PyTree, who: str, what: str, model: str) -> None:
    """Raise a ValueError where two trees differ in structure or shapes."""
    if _form(found) != _form(expected):
        (structure, shapes), (right_structure, right_shapes) = _form(found), _form(expected)
        raise ValueError(
            f"{who} a {what} of structure {structure} and shapes {shapes}, but {model} has "
            f"{right_structure} and {right_shapes}: {what} must have the form of {model}."
        )


def _form(tree):
    return jax.tree.structure(tree), [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]
