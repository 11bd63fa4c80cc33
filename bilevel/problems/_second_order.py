"""Whether a KKT point is a minimum: the Hessian of the Lagrangian along the constraints."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

MOST_CHECKED = 2000
"""Numbers up to which Hessian and constraints are made and decomposed for the check."""


def descends(
    gradient: Callable[[Float[Array, " n"]], Float[Array, " n"]],
    constraints: Callable[[Float[Array, " n"]], Float[Array, " m"]],
    binding: Bool[Array, " m"],
    x: Float[Array, " n"],
) -> Bool[Array, ""]:
    """Whether the Hessian has a direction of negative curvature along which no binding constraint
    changes, so that x is a maximum or a saddle among its feasible neighbours (Nocedal and Wright,
    "Numerical optimization", 2006, theorem 12.5).

    `gradient` is that of the Lagrangian, at fixed multipliers.
    """
    hessian, rows = jax.jacfwd(lambda x: (gradient(x), constraints(x)))(x)
    hessian, rows = lax.stop_gradient((hessian, rows))
    lengths = jnp.linalg.norm(rows, axis=1, keepdims=True)
    held = binding[:, None] & (lengths > 0)
    rows = jnp.where(held, rows / jnp.where(held, lengths, 1), 0)
    sound = jnp.all(jnp.isfinite(hessian)) & jnp.all(jnp.isfinite(rows))
    hessian, rows = jnp.where(sound, hessian, 0), jnp.where(sound, rows, 0)
    eps = float(jnp.finfo(x.dtype).eps)
    _, sizes, directions = jnp.linalg.svd(rows, full_matrices=True)
    fixed = jnp.zeros(x.shape, bool).at[: sizes.size].set(sizes > 10 * max(rows.shape) * eps)
    free = jnp.where(fixed[:, None], 0, directions)
    size = jnp.linalg.norm(hessian)
    along = free @ ((hessian + hessian.T) / 2) @ free.T + jnp.diag(jnp.where(fixed, size, 0))
    return jnp.linalg.eigvalsh(along)[0] < -(eps**0.5) * size
