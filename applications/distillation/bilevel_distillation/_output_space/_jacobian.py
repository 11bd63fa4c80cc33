"""Products with J and its transpose."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from .._running import compiled, join
from ._kernel import Outputs

Tangent = PyTree[Array]


class Linearized(eqx.Module):
    """Rows of J, linearised once: products need no primal pass, and the activations are kept."""

    linear: Any
    rows: int = eqx.field(static=True)

    def push(self, tangent: Tangent) -> Outputs:
        return self.linear(tangent)

    def pull(self, a: Outputs, like: Tangent) -> Tangent:
        return jax.linear_transpose(self.linear, like)(a)[0]


class Rederived(eqx.Module):
    """Rows of J, derived anew in each product: half as many operations again; nothing is kept."""

    function: Any
    at: Tangent
    rows: int = eqx.field(static=True)

    def push(self, tangent: Tangent) -> Outputs:
        return jax.jvp(self.function, (self.at,), (tangent,))[1]

    def pull(self, a: Outputs, like: Tangent) -> Tangent:
        return jax.vjp(self.function, like)[1](a)[0]


class Rows(eqx.Module):
    """J as a matrix of m C rows."""

    matrix: Float[Array, "mc parameters"]
    rows: int = eqx.field(static=True)

    def push(self, tangent: Tangent) -> Outputs:
        return (self.matrix @ ravel_pytree(tangent)[0]).reshape(self.rows, -1)

    def pull(self, a: Outputs, like: Tangent) -> Tangent:
        return ravel_pytree(like)[1](a.reshape(-1) @ self.matrix)


class Jacobian(eqx.Module):
    """J in blocks of rows.

    Attributes:
        blocks: one after the other.
        starts: the first row of each.
        at: the parameters, for their form.
        zero: the same, zero, for sums over several blocks.
    """

    blocks: tuple[Any, ...]
    starts: tuple[Int[Array, ""], ...]
    at: Tangent
    zero: Tangent | None

    @staticmethod
    def make(blocks, at: Tangent) -> "Jacobian":
        ends = [0]
        for block in blocks:
            ends.append(ends[-1] + block.rows)
        starts = tuple(jnp.asarray(end) for end in ends[:-1])
        return Jacobian(tuple(blocks), starts, at, zeros_like(at) if len(blocks) > 1 else None)

    def push(self, tangent: Tangent) -> Outputs:
        """J tangent."""
        return join(self.push_blocks(tangent))

    def push_blocks(self, tangent: Tangent) -> list[Outputs]:
        """J tangent, block by block."""
        return [_push(block, tangent) for block in self.blocks]

    def pull(self, a: Outputs) -> Tangent:
        """J^T a."""
        if len(self.blocks) == 1:
            return _pull(self.blocks[0], self.at, a)
        total = self.zero
        for block, start in zip(self.blocks, self.starts, strict=True):
            total = _add_pull(block, self.at, a, start, total)
        return total


@compiled
def _push(block, tangent):
    return block.push(tangent)


@compiled
def _pull(block, at, a):
    return block.pull(a, at)


@compiled
def _add_pull(block, at, a, start, total):
    pulled = block.pull(lax.dynamic_slice_in_dim(a, start, block.rows), at)
    return jax.tree.map(jnp.add, total, pulled)


@compiled
def zeros_like(at: Tangent | None) -> Tangent | None:
    return jax.tree.map(jnp.zeros_like, at)
