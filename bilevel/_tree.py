"""Arithmetic of pytrees of arrays, and keys that may be None."""

from collections.abc import Iterable
from functools import reduce

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, Scalar

from ._mistakes import check_key
from ._types import PyTree


def dtypes_of(tree: PyTree[Array]) -> tuple[np.dtype, ...]:
    return tuple(np.dtype(leaf.dtype) for leaf in jax.tree.leaves(tree))


def wide_dtype(tree: PyTree[Array]) -> np.dtype:
    """The type that holds what all leaves hold, and no less than float32."""
    with jax.numpy_dtype_promotion("standard"):
        return np.dtype(jnp.result_type(jnp.float32, *dtypes_of(tree)))


def is_wide(tree: PyTree[Array]) -> bool:
    """Whether all leaves are of one type, and that is no lower than float32."""
    return set(dtypes_of(tree)) <= {wide_dtype(tree)}


def widen(tree: PyTree[Array]) -> PyTree[Array]:
    wide = wide_dtype(tree)
    return jax.tree.map(lambda leaf: leaf.astype(wide), tree)


def cast(tree: PyTree[Array], dtypes: tuple[np.dtype, ...]) -> PyTree[Array]:
    """`tree` with leaves of these types, in order."""
    leaves, structure = jax.tree.flatten(tree)
    typed = [leaf.astype(dtype) for leaf, dtype in zip(leaves, dtypes, strict=True)]
    return jax.tree.unflatten(structure, typed)


def coarsest(dtypes: Iterable[np.dtype]) -> float:
    """The largest of their epsilons."""
    return max(float(jnp.finfo(dtype).eps) for dtype in dtypes)


def vdot(first: PyTree[Array], second: PyTree[Array]) -> Scalar:
    if not is_wide((first, second)):
        first, second = widen((first, second))
    return jnp.asarray(optax.tree.vdot(first, second))


def dots(*pairs: tuple[PyTree[Array], PyTree[Array]]) -> list[Scalar]:
    """The inner product of each pair; those of one size are summed together, by few kernels."""
    found: dict[int, Scalar] = {}
    parts = [(packed(first), packed(second)) for first, second in pairs]
    sizes = [tuple(leaf.size for leaf in first) for first, _ in parts]
    for size in dict.fromkeys(sizes):
        alike = [at for at in range(len(pairs)) if sizes[at] == size]
        found |= zip(alike, _together([parts[at] for at in alike]), strict=True)
    return [found[at] for at in range(len(pairs))]


def _together(pairs: list[tuple[list[Array], list[Array]]]) -> list[Scalar]:
    sums = []
    for leaves in zip(*(part for pair in pairs for part in pair), strict=True):
        wide = widen(list(leaves))
        if leaves[0].size <= MOST_PACKED:
            sums.append(jnp.sum(jnp.stack(wide[::2]) * jnp.stack(wide[1::2]), axis=1))
        else:
            sums.append(jnp.stack(list(map(jnp.vdot, wide[::2], wide[1::2]))))
    return list(reduce(jnp.add, sums))


MOST_PACKED = 2**16
"""Elements up to which a leaf is copied into one vector with the others."""


def packed(tree: PyTree[Array]) -> list[Array]:
    """The leaves of `tree`, the small ones as one vector: each sum over a leaf is a kernel of its
    own to compile.
    """
    leaves = jax.tree.leaves(widen(tree))
    small = [leaf.ravel() for leaf in leaves if leaf.size <= MOST_PACKED]
    large = [leaf for leaf in leaves if leaf.size > MOST_PACKED]
    return [jnp.concatenate(small), *large] if len(small) > 1 else small + large


def largest(tree: PyTree[Array]) -> Scalar:
    """The largest absolute value, so that one can divide: a tiny number where it is less than
    that, and 1 where it is infinite or NaN.

    For 0 it must not leap: XLA may compute what is rounded to 0 twice, and only once to 0. And it
    must bear being multiplied with other divisors. Squares of what is divided by it do not vanish.
    """
    most = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(tree)]
    size = reduce(jnp.maximum, widen(most))
    size = jnp.maximum(size, float(jnp.finfo(size.dtype).tiny) ** 0.5)
    return jnp.where(jnp.isfinite(size), size, 1).astype(size.dtype)


def divide(tree: PyTree[Array], scale: Scalar) -> PyTree[Array]:
    return jax.tree.map(lambda leaf: leaf / scale.astype(leaf.dtype), tree)


def multiply(tree: PyTree[Array], scale: Scalar) -> PyTree[Array]:
    return jax.tree.map(lambda leaf: scale.astype(leaf.dtype) * leaf, tree)


@eqx.filter_jit
def norm(tree: PyTree[Array]) -> Scalar:
    """The Euclidean norm, whose squares neither overflow nor underflow."""
    parts = packed(tree)
    size = largest(parts)
    return size * jnp.asarray(optax.tree.norm(divide(parts, size)))


@eqx.filter_jit
def negative(tree: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(jnp.negative, tree)


def hold_last(trace: Float[Array, " steps"], count: Int[Array, ""]) -> Float[Array, " steps"]:
    """`trace`, whose first `count` entries were written, with the last of those in the others."""
    last = trace[jnp.maximum(count - 1, 0)] if trace.size else trace
    return jnp.where(jnp.arange(trace.size) < count, trace, last)


def split_key(key: PRNGKeyArray | None, count: int) -> tuple[PRNGKeyArray | None, ...]:
    """`count` fresh keys, or as many times None where there is no key."""
    check_key(key)
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
