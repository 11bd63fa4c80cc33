"""Limited-memory BFGS on one vector, with bounds, by what a line search on the host asks for."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Scalar

DECREASE, FLATTER = 1e-4, 0.9
"""The two constants of Wolfe's conditions."""


class Curvature(eqx.Module):
    """The last steps and what they changed the gradient by, the latest last; zero where unused."""

    steps: Float[Array, "memory n"]
    changes: Float[Array, "memory n"]

    @classmethod
    def empty(cls, memory: int, like: Float[Array, " n"]) -> "Curvature":
        nothing = jnp.zeros((memory, like.size), like.dtype)
        return cls(nothing, nothing)


@eqx.filter_jit
def remember(curvature: Curvature, step: Array, change: Array) -> tuple[Curvature, Scalar]:
    """With a pair more, if the curvature along it is positive; and whether it is."""
    along, long = jnp.vdot(step, change), jnp.vdot(step, step)
    sound = along > 1e-10 * jnp.sqrt(long * jnp.vdot(change, change))

    def with_last(rows, row):
        return jnp.where(sound, jnp.concatenate((rows[1:], row[None])), rows)

    return Curvature(with_last(curvature.steps, step), with_last(curvature.changes, change)), sound


@eqx.filter_jit
def direction(
    curvature: Curvature, gradient: Float[Array, " n"], free: Bool[Array, " n"]
) -> Float[Array, " n"]:
    """Minus the inverse Hessian times the gradient, among the free coordinates (the two loops of
    Nocedal, 1980); zero where no pair is known.
    """

    def among_free(rows):
        return jnp.where(jnp.broadcast_to(free, rows.shape), rows, 0)

    steps, changes = among_free(curvature.steps), among_free(curvature.changes)
    along = jnp.sum(steps * changes, axis=1)
    used = along > 0
    inverse = jnp.where(used, 1 / jnp.where(used, along, 1), 0)

    def backwards(vector, pair):
        step, change, inverse = pair
        share = inverse * jnp.vdot(step, vector)
        return vector - share * change, share

    def forwards(vector, pair):
        step, change, inverse, share = pair
        return vector + step * (share - inverse * jnp.vdot(change, vector)), None

    pairs = (steps, changes, inverse)
    vector, shares = lax.scan(backwards, among_free(gradient), pairs, reverse=True)
    squares = jnp.sum(changes * changes, axis=1)
    latest = jnp.max(jnp.where(used, jnp.arange(used.size), -1))
    scale = jnp.where(latest >= 0, along[latest] / jnp.where(used, squares, 1)[latest], 0)
    vector, _ = lax.scan(forwards, scale * vector, (*pairs, shares))
    return -among_free(vector)


@dataclasses.dataclass(frozen=True)
class Point:
    """A place on the line, the value there, and its slope; `noise` is what the value may be off."""

    share: float
    value: float
    slope: float
    noise: float = 0.0

    @property
    def sound(self) -> bool:
        return bool(np.isfinite(self.value) and np.isfinite(self.slope))


def search(
    at: Callable[[float], Point], first: Point, share: float, most: int = 12
) -> tuple[Point | None, int]:
    """A point on the line that satisfies Wolfe's strong conditions, or the lowest one met.

    Minimises between two points by a cubic, and goes on by at most ten times beyond the last one
    (Nocedal and Wright, "Numerical Optimization", 2006, chapter 3.5). Where values are equal up to
    their noise, slopes alone decide (Hager and Zhang, 2005).

    Args:
        at: evaluates a point.
        first: the point at 0, with a negative slope.
        share: where to look first.
        most: at most so many evaluations.

    Returns:
        The point, None where none was lower than the first; and how many were evaluated.
    """
    low, high, best, count = first, None, None, 0
    for count in range(1, most + 1):
        here = at(share)
        noise = max(first.noise, here.noise)
        if not here.sound:
            high, share = here, low.share + (share - low.share) / 8
            continue
        level = first.value + DECREASE * share * first.slope
        enough = here.value <= max(level, first.value + noise if noise else level)
        lower = here.value <= level and here.value < first.value
        if lower and (best is None or here.value < best.value):
            best = here
        if enough and abs(here.slope) <= -FLATTER * first.slope:
            return here, count
        if not enough or (low is not first and here.value >= low.value + noise):
            high = here
        elif here.slope * (1 if high is None or high.share > low.share else -1) >= 0:
            low, high = here, low
        else:
            low = here
        share = _between(low, high) if high is not None else _beyond(first, low)
        if high is not None and abs(high.share - low.share) <= 1e-6 * abs(share):
            break
    return best, count


def _between(low: Point, high: Point) -> float:
    """The minimum of the cubic through two points, kept off both ends."""
    width = high.share - low.share
    inner = low.share + 0.5 * width
    if high.sound:
        bend = low.slope + high.slope - 3 * (low.value - high.value) / -width
        root = bend**2 - low.slope * high.slope
        if root >= 0:
            turn = np.sign(width) * np.sqrt(root)
            below = high.slope - low.slope + 2 * turn
            if below != 0:
                inner = high.share - width * (high.slope + turn - bend) / below
    least, most = sorted((low.share + 0.1 * width, high.share - 0.1 * width))
    return float(min(max(inner, least), most))


def _beyond(first: Point, low: Point) -> float:
    """Where the slope, as it has changed so far, comes to zero; up to ten times as far."""
    rise = low.slope - first.slope
    ahead = low.share * -first.slope / rise if rise > 0 else np.inf
    return float(min(max(ahead, 2 * low.share), 10 * low.share))
