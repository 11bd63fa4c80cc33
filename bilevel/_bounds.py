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
    if bool(jnp.any(jnp.isnan(lower) | jnp.isnan(upper))):
        raise ValueError("bounds holds NaN, which bounds nothing: give None where there is none.")
    if bool(jnp.any(lower > upper)):
        raise ValueError("bounds holds a lower bound that is above the upper one: swap them.")
    return lower, upper


def _flat(bound, like, dtype, missing) -> Array:
    leaves = jax.tree.leaves(like)
    if bound is None or (eqx.is_array_like(bound) and np.ndim(bound) == 0):
        given = [missing if bound is None else bound] * len(leaves)
    else:
        given = _leaf_by_leaf(bound, like)
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


def _leaf_by_leaf(bound, like) -> list[Any]:
    """What bounds each floating-point array of psi0, by its place in the tree; what stands where
    psi0 has a subtree holds for all of it.
    """

    def places(tree):
        return dict(
            jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda part: part is None)[0]
        )

    given, found, used = places(bound), [], set()
    for path in (path for path, leaf in places(like).items() if leaf is not None):
        whole = next((path[:n] for n in range(len(path), -1, -1) if path[:n] in given), None)
        if whole is None:
            raise _not_shaped_alike(f"lacks {_named(path)}")
        used.add(whole)
        found.append(given[whole])
    for path, part in given.items():
        if path not in used and part is not None:
            raise _not_shaped_alike(f"holds {_named(path)}, where psi0 has no floating-point array")
    return found


def _named(path) -> str:
    return jax.tree_util.keystr(path) or "a single leaf"


def _not_shaped_alike(how: str) -> ValueError:
    return ValueError(
        f"bounds holds a pytree that is not shaped like psi0: it {how}; give a number, an array or "
        "None for each floating-point array of psi0."
    )
