"""A hypergradient with its record of how far it can be trusted."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Scalar

from ._result import Result
from ._shown import as_table
from ._tree import norm
from ._types import PyTree
from .inverse_hvp import Adjoint
from .solvers import InnerRecord


class Hypergradient(eqx.Module):
    """A hypergradient, its parts, and how far it can be trusted.

    Attributes:
        value: the outer loss at theta*; a scalar.
        aux: what `outer` returned beside its value (None without `has_aux`).
        theta: theta*, the solution of the inner problem, shaped like theta0.
        direct: the partial derivative of the outer loss with respect to psi, shaped like psi.
        implicit: the part that goes through theta*, shaped like psi.
        grad: their sum. None stands at leaves of psi that are not floating-point arrays.
        inner: the inner solver's record: steps, losses, gradient norm at theta*, result.
        adjoint: the adjoint solve: v = H^-1 g, relative residual, steps, result.
        change: what `value` would change by if theta moved to the solution, to first order:
            `-<v, F>`, with F the inner gradient at theta, or the residual of an inner problem that
            is no loss.
    """

    value: Scalar
    aux: Any
    theta: PyTree
    direct: PyTree
    implicit: PyTree
    inner: InnerRecord
    adjoint: Adjoint
    change: Scalar

    @property
    def grad(self) -> PyTree:
        """`direct + implicit`: the derivative of `value` with respect to psi, shaped like psi."""
        return optax.tree.add(self.direct, self.implicit)

    def __str__(self) -> str:
        if any(isinstance(leaf, Tracer) or jnp.ndim(leaf) for leaf in _scalars(self)):
            return repr(self)  # under jit or vmap
        inner, adjoint = self.inner, self.adjoint
        away = "not estimated" if inner.distance is None else f"{float(inner.distance):.1e}"
        change = f"{float(self.change):+.1e}"
        return "\n".join(
            (
                f"value              {float(self.value):.6g}",
                f"gradient, norm     {float(norm(self.grad)):.3e}",
                f"  direct part      {float(norm(self.direct)):.3e}",
                f"  implicit part    {float(norm(self.implicit)):.3e}",
                f"theta              {int(inner.steps)} steps: {Result[inner.result]}",
                f"  {inner.measure} norm    {float(inner.gradient_norm):.1e}",
                f"  distance         {away}  (to the solution, relative to theta)",
                f"  change           {change}  (of the value, if theta moved to the solution)",
                f"adjoint            {int(adjoint.steps)} steps: {Result[adjoint.result]}",
                f"  residual         {float(adjoint.residual):.1e}  (relative)",
            )
        )

    def _repr_html_(self) -> str:
        return as_table("Hypergradient", str(self))


def _scalars(h: Hypergradient) -> list:
    return jax.tree.leaves((h.value, h.change, h.inner.gradient_norm, h.adjoint.residual))
