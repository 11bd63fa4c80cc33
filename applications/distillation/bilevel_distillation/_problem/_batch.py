"""What a method is given beside the coreset."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from ..networks import AbstractNetwork


class Rates(eqx.Module):
    """Learning rates of Adam in the inner problem and in the adjoint (the paper's way)."""

    inner: Scalar
    adjoint: Scalar


class Batch(eqx.Module):
    """What one meta-step draws.

    Attributes:
        images: real images, preprocessed.
        targets: their labels, one-hot.
        network: one of the pool; its batch normalisation has the statistics of the coreset.
        rates: Adam's, where Adam solves.
        key: for whatever else is random; None: nothing is.
        carried: what the method gave to be carried over from the step before.
        prepared: what the method made of the real images before the first step.
        fresh: as many fresh networks as the method asked for, stacked; None: it asked for none.
    """

    images: Float[Array, "batch height width channels"]
    targets: Float[Array, "batch classes"]
    network: AbstractNetwork
    rates: Rates | None = None
    key: PRNGKeyArray | None = None
    carried: Any = None
    prepared: Any = None
    fresh: AbstractNetwork | None = None
