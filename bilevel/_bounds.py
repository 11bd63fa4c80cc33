"""Bounds on each number of a pytree, as two flat vectors."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._types import PyTree


def flat_bounds(
    bounds: Any, like: PyTree[Array], dtype: np.dtype
) -> tuple[Float[Array, " n"] | None, Float[Array, " n"] | None]:
    """`(lower, upper)` as vectors as long as `like` has numbers; None twice without bounds."""
    if bounds is None:
        return None, None
    if not (isinstance(bounds, tuple | list) and len(bounds) == 2):
        raise ValueError(
            f"bounds={bounds!r} is not a pair: pass `(lower, upper)`, either of them None, a "
            "number, or a pytree shaped like psi0."
        )
    lower, upper = (
        _flat(bound, like, dtype, missing)
        for bound, missing in zip(bounds, (-jnp.inf, jnp.inf), strict=True)
    )
    if bool(jnp.any(~(lower <= upper))):
        raise ValueError("bounds holds a lower bound that is above the upper one: swap them.")
    return lower, upper


def _flat(bound, like, dtype, missing) -> Array:
    leaves, structure = jax.tree.flatten(like)
    if bound is None or (eqx.is_array_like(bound) and np.ndim(bound) == 0):
        given = [missing if bound is None else bound] * len(leaves)
    else:
        given = jax.tree.leaves(bound, is_leaf=lambda part: part is None)
        if len(given) != len(leaves):
            raise ValueError(
                f"bounds holds a pytree of {len(given)} leaves, but psi0 has {len(leaves)} "
                "floating-point arrays: give one leaf for each of them."
            )
    parts = []
    for part, leaf in zip(given, leaves, strict=True):
        part = jnp.asarray(missing if part is None else part, dtype)
        if part.ndim and part.shape != leaf.shape:
            raise ValueError(
                f"bounds holds an array of shape {part.shape} for one of shape {leaf.shape} in "
                "psi0: give a number, or an array of that shape."
            )
        parts.append(jnp.broadcast_to(part, leaf.shape).ravel())
    return jnp.concatenate(parts)
