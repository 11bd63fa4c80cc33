"""Where a problem stands: theta, or theta with the multipliers of its constraints."""

import equinox as eqx
from jaxtyping import Array

from ._types import PyTree


class Multipliers(eqx.Module):
    """The multipliers of the constraints at a solution.

    Attributes:
        equality: shaped like what `equality` returns; None without one.
        inequality: shaped like what `inequality` returns, and not negative; None without one.
    """

    equality: PyTree[Array] | None
    inequality: PyTree[Array] | None


class Point(eqx.Module):
    """What a constrained problem is solved for.

    Attributes:
        theta: as in the inner problem.
        multipliers: in units of their own.
    """

    theta: PyTree[Array]
    multipliers: Multipliers


def primal(at: PyTree) -> PyTree:
    """theta alone."""
    return at.theta if isinstance(at, Point) else at
