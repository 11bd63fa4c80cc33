"""Derivatives of the outer value by central differences, and how well a gradient agrees."""

from collections.abc import Iterator

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ._tree import norm

ROUGH = 1e-3
"""The relative uncertainty of a difference from which on a shorter one is tried."""


def derivatives(grad, psi, value, directions, step) -> Iterator[tuple[float, float, float]]:
    flat, unravel = ravel_pytree(eqx.filter(psi, eqx.is_inexact_array))
    static = eqx.filter(psi, eqx.is_inexact_array, inverse=True)
    gradient = np.asarray(ravel_pytree(grad)[0], np.float64)
    rng = np.random.default_rng(0)
    random = list(rng.normal(size=(min(directions, flat.size - 1), flat.size)))
    size = np.linalg.norm(gradient)
    usable = np.isfinite(size) and size > 0
    first = gradient / size if usable else np.ones(flat.size) / flat.size**0.5
    eps = float(jnp.finfo(flat.dtype).eps)

    def difference(direction, length):
        at = [
            value(
                eqx.combine(unravel(flat + jnp.asarray(s * length * direction, flat.dtype)), static)
            )
            for s in (1, -1)
        ]
        rounding = eps * max(map(abs, at)) / length
        return (at[0] - at[1]) / (2 * length), rounding

    def compared(unit, length):
        (expected, rounding), (longer, _) = (difference(unit, k * length) for k in (1, 2))
        return float(gradient @ unit), expected, abs(longer - expected) + rounding

    for direction in (first, *random):
        unit = direction / np.linalg.norm(direction)
        usual = eps ** (1 / 3) * max(1.0, float(norm(flat))) if step is None else step
        row = compared(unit, usual)
        if step is None and not row[2] <= ROUGH * max(abs(row[0]), abs(row[1])):
            # Too long for what is small of psi, perhaps.
            moved = (unit != 0) & (np.asarray(flat) != 0)
            own = np.min(np.abs(np.asarray(flat)[moved] / unit[moved]), initial=np.inf)
            if eps ** (1 / 3) * own < usual / 10:
                finer = compared(unit, eps ** (1 / 3) * own)
                row = finer if finer[2] < row[2] or not np.isfinite(row[2]) else row
        yield row


def disagreement(rows) -> tuple[float, float]:
    """The largest error and the largest uncertainty, relative to the largest difference."""
    table = np.asarray(rows)
    if not np.all(np.isfinite(table)):
        # Differences that are not finite say nothing of a gradient that is.
        return float("inf"), float("inf") if np.all(np.isfinite(table[:, 0])) else 0.0
    scale = max(np.max(np.abs(table[:, :2])), np.finfo(float).tiny)
    errors = np.max(np.abs(table[:, 0] - table[:, 1])) / scale
    return float(errors), float(np.max(table[:, 2]) / scale)
