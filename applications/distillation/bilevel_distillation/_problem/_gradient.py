"""What a method gives: the derivative with respect to the coreset, and what was measured."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Scalar

from ._coreset import Coreset


class MetaGradient(eqx.Module):
    """The derivative of an outer loss with respect to the coreset, in up to two parts.

    Attributes:
        value: the outer loss.
        direct: its derivative at a fixed solution of the inner problem: all that there is where
            there is no inner problem; None where the loss depends on the coreset through the
            solution alone.
        implicit: the derivative through the solution; None where there is no inner problem.
        predictions: for the batch; None where the method makes none.
        inner, adjoint: records of the two solves, if there are any.
        measured: what else is written of it, by name: scalars.
        carried: what the method wants to find in the next batch; None: the same as in this one.
    """

    value: Scalar
    direct: Coreset | None = None
    implicit: Coreset | None = None
    predictions: Float[Array, "batch classes"] | None = None
    inner: Any = None
    adjoint: Any = None
    measured: dict[str, Scalar] = eqx.field(default_factory=dict)
    carried: Any = None

    @property
    def grad(self) -> Coreset:
        """The whole derivative."""
        return _sum(self.direct, self.implicit)

    def clipped(self) -> Coreset:
        """The whole derivative, each leaf of the implicit part clipped to the norm of the direct
        one where there are both.
        """
        if self.direct is None or self.implicit is None:
            return self.grad
        return _sum(self.direct, jax.tree.map(_clip, self.implicit, self.direct))

    def through(self, linear: Callable[[Coreset], Coreset]) -> "MetaGradient":
        """The same after a linear map of the derivative."""
        direct, implicit = (
            None if one is None else linear(one) for one in (self.direct, self.implicit)
        )
        return replace(self, direct=direct, implicit=implicit)

    def measures(self) -> dict[str, Scalar]:
        """What is written of it, by name."""
        found = {"loss": self.value} | self.measured
        if self.implicit is not None:
            length = jnp.linalg.norm(self.implicit.images)
            found["implicit_share"] = length / jnp.linalg.norm(self.grad.images)
        return found


def _sum(direct: Coreset | None, implicit: Coreset | None) -> Coreset:
    if direct is None or implicit is None:
        only = implicit if direct is None else direct
        assert only is not None, "a MetaGradient has a part"
        return only
    return optax.tree.add(direct, implicit)  # pyright: ignore


def _clip(implicit: Array, direct: Array) -> Array:
    norm = jnp.linalg.norm(implicit)
    return implicit * jnp.minimum(1, jnp.linalg.norm(direct) / jnp.where(norm > 0, norm, 1))
